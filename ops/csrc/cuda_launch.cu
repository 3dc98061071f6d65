// Which kernel with how many threads. No PyTorch header beyond its half-precision numbers is read here, since nvcc
// takes minutes over the rest.
#include <algorithm>

#include "cuda_kernels.cuh"

namespace ms_deform_attn {
namespace cuda {
namespace {

// Blocks for `work` threads; the kernels loop where there is more work than threads.
int blocks_for(int64_t work) {
  constexpr int64_t kMost = 1 << 20;
  return static_cast<int>(std::min<int64_t>((work + kThreadsOfBlock - 1) / kThreadsOfBlock, kMost));
}

bool starts_at(const void* address, size_t multiple) {
  return reinterpret_cast<uintptr_t>(address) % multiple == 0;
}

template <typename T, int V>
void forward(const ForwardProblem& problem, cudaStream_t stream) {
  const int64_t threads = problem.batch * problem.queries * problem.heads * (problem.channels / V);
  forward_kernel<T, V><<<blocks_for(threads), kThreadsOfBlock, 0, stream>>>(problem);
}

template <typename T, int V>
void backward(const BackwardProblem& problem, cudaStream_t stream) {
  int threads_of_row = 1;
  while (threads_of_row < kThreadsOfWarp && threads_of_row * V < problem.channels) threads_of_row *= 2;
  const int blocks = blocks_for(problem.batch * problem.queries * problem.heads * threads_of_row);
  if (!problem.deterministic) {
    backward_kernel<T, V, true><<<blocks, kThreadsOfBlock, 0, stream>>>(problem, threads_of_row);
    return;
  }
  backward_kernel<T, V, false><<<blocks, kThreadsOfBlock, 0, stream>>>(problem, threads_of_row);
  const int64_t sums = problem.batch * problem.levels.count * problem.heads * problem.channels;
  grad_value_kernel<T><<<blocks_for(sums), kThreadsOfBlock, 0, stream>>>(problem);
}

// Sixteen bytes at a time where channels and addresses allow it.
template <typename T>
constexpr int kWide = 16 / sizeof(T);

template <typename T>
void choose_forward(const ForwardProblem& problem, cudaStream_t stream) {
  const bool wide = problem.channels % kWide<T> == 0 && starts_at(problem.value, 16) && starts_at(problem.output, 16);
  wide ? forward<T, kWide<T>>(problem, stream) : forward<T, 1>(problem, stream);
}

template <typename T>
void choose_backward(const BackwardProblem& problem, cudaStream_t stream) {
  const bool wide = problem.channels % kWide<T> == 0 && starts_at(problem.value, 16) &&
                    starts_at(problem.grad_output, 16) && starts_at(problem.grad_value, 16);
  wide ? backward<T, kWide<T>>(problem, stream) : backward<T, 1>(problem, stream);
}

}  // namespace

bool launch_forward(c10::ScalarType value_type, const ForwardProblem& problem, cudaStream_t stream) {
  switch (value_type) {
    case c10::ScalarType::Float: choose_forward<float>(problem, stream); return true;
    case c10::ScalarType::Double: choose_forward<double>(problem, stream); return true;
    case c10::ScalarType::BFloat16: choose_forward<c10::BFloat16>(problem, stream); return true;
    case c10::ScalarType::Half: choose_forward<c10::Half>(problem, stream); return true;
    default: return false;
  }
}

bool launch_backward(c10::ScalarType value_type, const BackwardProblem& problem, cudaStream_t stream) {
  switch (value_type) {
    case c10::ScalarType::Float: choose_backward<float>(problem, stream); return true;
    case c10::ScalarType::Double: choose_backward<double>(problem, stream); return true;
    case c10::ScalarType::BFloat16: choose_backward<c10::BFloat16>(problem, stream); return true;
    case c10::ScalarType::Half: choose_backward<c10::Half>(problem, stream); return true;
    default: return false;
  }
}

}  // namespace cuda
}  // namespace ms_deform_attn
