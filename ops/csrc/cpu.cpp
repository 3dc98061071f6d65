// The operators on a CPU: checks, memory, threads. The arithmetic is in cpu_kernels_impl.h.
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "check.h"
#include "cpu_kernels.h"
#include "large_memory.h"
#include "sampling_point.h"

namespace ms_deform_attn {
namespace {

constexpr int64_t kWorkOfThread = 1 << 17;  // multiplications that are worth another thread

// PyTorch's own choice for its kernels, which ATEN_CPU_CAPABILITY can lower.
CpuKernels choose_kernels(const at::Tensor& value) {
  CpuKernels (*kernels_for)(c10::ScalarType) = baseline::kernels_for;
#if defined(__x86_64__)
  const std::string capability = at::get_cpu_capability();
  if (capability == "AVX512") kernels_for = avx512::kernels_for;
  if (capability == "AVX2") kernels_for = avx2::kernels_for;
  if (!__builtin_cpu_supports("f16c")) kernels_for = baseline::kernels_for;
#endif
  const CpuKernels kernels = kernels_for(value.scalar_type());
  TORCH_CHECK_VALUE(
      kernels.forward, "value is ", value.scalar_type(), "; expected float32, float64, bfloat16 or float16"
  );
  return kernels;
}

bool locations_as_value(const at::Tensor& value, const at::Tensor& locations) {
  return value.scalar_type() == locations.scalar_type();
}

at::Tensor forward(
    const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations, const at::Tensor& weights
) {
  const Sizes sizes = check_sizes(value, shapes, locations, weights);
  const CpuKernels kernels = choose_kernels(value);
  const at::Tensor value_ = value.contiguous(), locations_ = locations.contiguous(), weights_ = weights.contiguous();
  const at::Tensor zeros = at::zeros({sizes.channels}, value.options());
  const at::Tensor output =
      empty_for_writing({sizes.batch, sizes.queries, sizes.heads * sizes.channels}, value.options());
  const bool in_place = kCorners * sizes.queries * sizes.samples() < sizes.positions;
  const ForwardData data{
      in_place,
      locations_as_value(value, locations),
      value_.const_data_ptr(),
      locations_.const_data_ptr(),
      weights_.const_data_ptr(),
      zeros.const_data_ptr(),
      output.mutable_data_ptr()
  };
  const int64_t work_of_row = std::max<int64_t>(1, kCorners * sizes.samples() * sizes.channels);
  const int64_t grain = std::max<int64_t>(1, kWorkOfThread / work_of_row);
  at::parallel_for(0, sizes.batch * sizes.queries * sizes.heads, grain, [&](int64_t begin, int64_t end) {
    kernels.forward(sizes, data, begin, end);
  });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> backward(
    const at::Tensor& grad_output, const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations,
    const at::Tensor& weights
) {
  const Sizes sizes = check_sizes(value, shapes, locations, weights);
  check_grad_output(grad_output, value, sizes);
  const CpuKernels kernels = choose_kernels(value);
  const at::Tensor grad_output_ = grad_output.contiguous(), value_ = value.contiguous();
  const at::Tensor locations_ = locations.contiguous(), weights_ = weights.contiguous();
  const auto levels = static_cast<int64_t>(sizes.levels.size());
  // With few queries most of grad_value stays zero, and going through those zeros would take most of the time.
  const bool sparse = kCorners * sizes.queries * sizes.samples() < sizes.positions;
  const at::Tensor grad_value = sparse ? zeros_for_adding(value.sizes(), value.options())
                                       : empty_for_writing(value.sizes(), value.options());
  const at::Tensor grad_locations = empty_for_writing(locations.sizes(), locations.options());
  const at::Tensor grad_weights = empty_for_writing(weights.sizes(), weights.options());
  // All levels at once read the points best; one at a time makes work for more threads.
  const bool enough_heads = sizes.batch * sizes.heads >= at::get_num_threads();
  const int64_t levels_at_once = enough_heads ? std::max<int64_t>(levels, 1) : 1;
  const BackwardData data{
      levels_at_once,
      sparse,
      locations_as_value(value, locations),
      grad_output_.const_data_ptr(),
      value_.const_data_ptr(),
      locations_.const_data_ptr(),
      weights_.const_data_ptr(),
      grad_value.mutable_data_ptr(),
      grad_locations.mutable_data_ptr(),
      grad_weights.mutable_data_ptr()
  };
  const int64_t tasks = sizes.batch * sizes.heads * (levels / levels_at_once);
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { kernels.backward(sizes, data, begin, end); });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace

TORCH_LIBRARY_IMPL(ms_deform_attn, CPU, library) {
  library.impl("forward", &forward);
  library.impl("backward", &backward);
}

}  // namespace ms_deform_attn
