// Checks of the tensors of one call.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>

#include "sizes.h"

namespace ms_deform_attn {

// Raises unless the tensors fit together; `shapes` alternates height and width.
inline Sizes check_sizes(
    const at::Tensor& value, at::IntArrayRef shapes, const at::Tensor& locations, const at::Tensor& weights
) {
  TORCH_CHECK_VALUE(value.dim() == 4, "value has shape ", value.sizes(), "; expected (N, S, heads, d)");
  TORCH_CHECK_VALUE(
      locations.dim() == 6, "sampling_locations has shape ", locations.sizes(),
      "; expected (N, Lq, heads, levels, points, 2)"
  );
  TORCH_CHECK_VALUE(
      shapes.size() % 2 == 0, "spatial_shapes has ", shapes.size(),
      " numbers; expected a height and a width for each level"
  );
  Sizes sizes{value.size(0), value.size(1), value.size(2), value.size(3), locations.size(1), locations.size(4), {}};
  int64_t start = 0;
  for (size_t i = 0; i < shapes.size(); i += 2) {
    const int64_t height = shapes[i], width = shapes[i + 1];
    constexpr int64_t kMost = std::numeric_limits<int32_t>::max() / 2;
    TORCH_CHECK_VALUE(
        height >= 0 && width >= 0 && height <= kMost && width <= kMost && height * width <= kMost,
        "spatial_shapes has a map of ", height, " x ", width, "; at most ", kMost, " pixels are possible"
    );
    sizes.levels.push_back({static_cast<int32_t>(height), static_cast<int32_t>(width), start});
    start += height * width;
  }
  const auto levels = static_cast<int64_t>(sizes.levels.size());
  TORCH_CHECK_VALUE(
      start == sizes.positions, "spatial_shapes hold ", start, " positions, value holds ", sizes.positions
  );
  const int64_t expected[] = {sizes.batch, sizes.queries, sizes.heads, levels, sizes.points, 2};
  TORCH_CHECK_VALUE(
      locations.sizes() == at::IntArrayRef(expected), "sampling_locations has shape ", locations.sizes(), "; expected ",
      at::IntArrayRef(expected)
  );
  TORCH_CHECK_VALUE(
      weights.sizes() == at::IntArrayRef(expected, 5), "attention_weights has shape ", weights.sizes(), "; expected ",
      at::IntArrayRef(expected, 5)
  );
  const at::ScalarType type = value.scalar_type(), place_type = locations.scalar_type();
  const bool is_half = type == at::kHalf || type == at::kBFloat16;
  TORCH_CHECK_VALUE(
      place_type == weights.scalar_type() && (place_type == type || (is_half && place_type == at::kFloat)), "value is ",
      type, ", sampling_locations ", place_type, ", attention_weights ", weights.scalar_type(),
      "; expected one type, or float32 for the latter two beside a half-precision value"
  );
  TORCH_CHECK_VALUE(
      value.device() == locations.device() && value.device() == weights.device(), "value is on ", value.device(),
      ", sampling_locations on ", locations.device(), ", attention_weights on ", weights.device()
  );
  return sizes;
}

inline void check_grad_output(const at::Tensor& grad_output, const at::Tensor& value, const Sizes& sizes) {
  const int64_t expected[] = {sizes.batch, sizes.queries, sizes.heads * sizes.channels};
  TORCH_CHECK_VALUE(
      grad_output.sizes() == at::IntArrayRef(expected) && grad_output.scalar_type() == value.scalar_type() &&
          grad_output.device() == value.device(),
      "grad_output is ", grad_output.scalar_type(), " ", grad_output.sizes(), " on ", grad_output.device(),
      "; expected ", value.scalar_type(), " ", at::IntArrayRef(expected), " on ", value.device()
  );
}

}  // namespace ms_deform_attn
