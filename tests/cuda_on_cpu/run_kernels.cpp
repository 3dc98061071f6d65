// The CUDA kernels as functions of a library that a test calls, run on the CPU.
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "cuda_kernels.cuh"

using namespace ms_deform_attn;
using namespace ms_deform_attn::cuda;

namespace {

constexpr unsigned kBlocks = 3;  // few, so that the kernels go around more than once

template <typename T>
struct Type {};

// `numbers`: batch, positions, heads, channels, queries, points, then height and width of each level.
template <typename Problem>
Problem make_problem(
    const int64_t* numbers, int levels, bool locations_as_value, const void* const* inputs, std::vector<Level>& more
) {
  Problem problem{};
  problem.batch = numbers[0];
  problem.positions = numbers[1];
  problem.heads = numbers[2];
  problem.channels = numbers[3];
  problem.queries = numbers[4];
  problem.points = numbers[5];
  problem.levels.count = levels;
  int64_t start = 0;
  for (int l = 0; l < levels; ++l) {
    const auto height = static_cast<int32_t>(numbers[6 + 2 * l]), width = static_cast<int32_t>(numbers[7 + 2 * l]);
    if (l < LevelTable::kHere) {
      problem.levels.here[l] = {height, width, start};
    } else {
      more.push_back({height, width, start});
    }
    start += int64_t{height} * width;
  }
  problem.levels.more = more.data();
  problem.locations_as_value = locations_as_value;
  problem.value = inputs[0];
  problem.locations = inputs[1];
  problem.weights = inputs[2];
  return problem;
}

template <typename T, int V>
void backward_with(const BackwardProblem& problem, int threads_of_row) {
  if (problem.deterministic) {
    launch(kBlocks, kThreadsOfBlock, backward_kernel<T, V, false>, problem, threads_of_row);
    launch(kBlocks, kThreadsOfBlock, grad_value_kernel<T>, problem);
  } else {
    launch(kBlocks, kThreadsOfBlock, backward_kernel<T, V, true>, problem, threads_of_row);
  }
}

template <typename Function>
void with_type(int type, Function function) {
  if (type == 0) function(Type<double>{});
  if (type == 1) function(Type<float>{});
  if (type == 2) function(Type<c10::Half>{});
  if (type == 3) function(Type<c10::BFloat16>{});
}

}  // namespace

extern "C" void run_forward(
    int type, bool wide, bool locations_as_value, const int64_t* numbers, int levels, const void* const* inputs,
    void* output
) {
  std::vector<Level> more;
  auto problem = make_problem<ForwardProblem>(numbers, levels, locations_as_value, inputs, more);
  problem.output = output;
  with_type(type, [&]<typename T>(Type<T>) {
    if (wide) {
      launch(kBlocks, kThreadsOfBlock, forward_kernel<T, 16 / sizeof(T)>, problem);
    } else {
      launch(kBlocks, kThreadsOfBlock, forward_kernel<T, 1>, problem);
    }
  });
}

extern "C" void run_backward(
    int type, bool wide, bool locations_as_value, bool deterministic, int threads_of_row, const int64_t* numbers,
    int levels, const void* const* inputs, const void* grad_output, void* const* gradients
) {
  std::vector<Level> more;
  auto problem = make_problem<BackwardProblem>(numbers, levels, locations_as_value, inputs, more);
  problem.deterministic = deterministic;
  problem.grad_output = grad_output;
  problem.grad_value = gradients[0];
  problem.grad_locations = gradients[1];
  problem.grad_weights = gradients[2];
  with_type(type, [&]<typename T>(Type<T>) {
    if (wide) {
      backward_with<T, 16 / sizeof(T)>(problem, threads_of_row);
    } else {
      backward_with<T, 1>(problem, threads_of_row);
    }
  });
}
