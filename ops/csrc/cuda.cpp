// The operators on a GPU: checks, memory, device and stream. The kernels are in cuda_kernels.cuh.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

#include "check.h"
#include "cuda_problem.h"

namespace ms_deform_attn {
namespace cuda {
namespace {

// Sets what both directions share. Returns the memory of the levels that do not travel with the arguments.
at::Tensor fill_problem(
    Problem& problem, const Sizes& sizes, const at::Tensor& value, const at::Tensor& locations,
    const at::Tensor& weights
) {
  problem.batch = sizes.batch;
  problem.positions = sizes.positions;
  problem.heads = sizes.heads;
  problem.channels = sizes.channels;
  problem.queries = sizes.queries;
  problem.points = sizes.points;
  problem.locations_as_value = value.scalar_type() == locations.scalar_type();
  problem.value = value.const_data_ptr();
  problem.locations = locations.const_data_ptr();
  problem.weights = weights.const_data_ptr();

  const auto count = static_cast<int64_t>(sizes.levels.size());
  const int64_t here = std::min<int64_t>(count, LevelTable::kHere);
  problem.levels.count = static_cast<int32_t>(count);
  std::copy_n(sizes.levels.begin(), here, problem.levels.here);
  problem.levels.more = nullptr;
  if (count == here) return {};
  const auto bytes = static_cast<int64_t>((count - here) * sizeof(Level));
  auto* more = const_cast<Level*>(sizes.levels.data() + here);
  const at::Tensor copy = at::from_blob(more, {bytes}, at::TensorOptions().dtype(at::kByte)).to(value.device());
  problem.levels.more = static_cast<const Level*>(copy.const_data_ptr());
  return copy;
}

at::Tensor forward(
    const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations, const at::Tensor& weights
) {
  const Sizes sizes = check_sizes(value, shapes, locations, weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const at::Tensor value_ = value.contiguous(), locations_ = locations.contiguous(), weights_ = weights.contiguous();
  const at::Tensor output = at::empty({sizes.batch, sizes.queries, sizes.heads * sizes.channels}, value.options());
  if (output.numel() == 0) return output;
  ForwardProblem problem;
  const at::Tensor levels = fill_problem(problem, sizes, value_, locations_, weights_);
  problem.output = output.mutable_data_ptr();
  const bool known = launch_forward(value.scalar_type(), problem, c10::cuda::getCurrentCUDAStream());
  TORCH_CHECK_VALUE(known, "value is ", value.scalar_type(), "; expected float32, float64, bfloat16 or float16");
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_output, const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations,
    const at::Tensor& weights
) {
  const Sizes sizes = check_sizes(value, shapes, locations, weights);
  check_grad_output(grad_output, value, sizes);
  const c10::cuda::CUDAGuard guard(value.device());
  const at::Tensor grad_output_ = grad_output.contiguous(), value_ = value.contiguous();
  const at::Tensor locations_ = locations.contiguous(), weights_ = weights.contiguous();
  const bool is_double = value.scalar_type() == at::kDouble;
  const at::Tensor grad_value = at::zeros(value.sizes(), value.options().dtype(is_double ? at::kDouble : at::kFloat));
  const at::Tensor grad_locations = at::empty_like(locations_, at::MemoryFormat::Contiguous);
  const at::Tensor grad_weights = at::empty_like(weights_, at::MemoryFormat::Contiguous);
  if (grad_output.numel() > 0 && sizes.samples() > 0) {
    BackwardProblem problem;
    const at::Tensor levels = fill_problem(problem, sizes, value_, locations_, weights_);
    problem.deterministic = at::globalContext().deterministicAlgorithms();
    problem.grad_output = grad_output_.const_data_ptr();
    problem.grad_value = grad_value.mutable_data_ptr();
    problem.grad_locations = grad_locations.mutable_data_ptr();
    problem.grad_weights = grad_weights.mutable_data_ptr();
    const bool known = launch_backward(value.scalar_type(), problem, c10::cuda::getCurrentCUDAStream());
    TORCH_CHECK_VALUE(known, "value is ", value.scalar_type(), "; expected float32, float64, bfloat16 or float16");
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  } else {  // no query, or no channel that a gradient could come from
    grad_locations.zero_();
    grad_weights.zero_();
  }
  return {grad_value.to(value.scalar_type()), grad_locations, grad_weights};
}

}  // namespace

TORCH_LIBRARY_IMPL(ms_deform_attn, CUDA, library) {
  library.impl("forward", &forward);
  library.impl("backward", &backward);
}

}  // namespace cuda
}  // namespace ms_deform_attn
