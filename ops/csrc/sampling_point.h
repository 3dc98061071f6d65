// The arithmetic of one sampling point: where it falls on a map, how much each of its four corner pixels counts, and
// what the gradients with respect to its place and its attention weight are. The CPU and the CUDA kernels both use
// it, so tests on a CPU exercise what a GPU runs.
//
// Real is float or double with int32_t as Integer, or a vector of several such numbers with a vector of integers of the
// same width, so nothing here branches.
#pragma once

#include <cstdint>
#include <type_traits>

#if defined(__CUDACC__)
#define MSDA_INLINE __host__ __device__ __forceinline__
#elif !defined(MSDA_INLINE)
#define MSDA_INLINE inline __attribute__((always_inline))
#endif

namespace ms_deform_attn {

// The corners of a point, in the order top left, top right, bottom left, bottom right.
constexpr int kCorners = 4;

template <typename To, typename From>
MSDA_INLINE To convert(From number) {
#if !defined(__CUDACC__)
  if constexpr (!std::is_arithmetic_v<From>) {
    return __builtin_convertvector(number, To);
  } else
#endif
  {
    return static_cast<To>(number);
  }
}

template <typename Real, typename Integer>
struct SamplingPoint {
  Real fraction_x, fraction_y;  // how far the point is from its left and its upper corners, in pixels
  Real coverage[kCorners];      // bilinear share of each corner; the four sum to 1
  Integer pixel[kCorners];      // position of each corner within its map, -1 for a corner outside it
};

// (location_x, location_y) are shares of the map's (width, height), and pixel centres lie at half integers. All corners
// of a point that is outside, infinite or not a number are outside.
template <typename Integer, typename Real>
MSDA_INLINE SamplingPoint<Real, Integer> locate(Real location_x, Real location_y, Integer height, Integer width) {
  const Real zero{};
  const Integer none = Integer{} - 1;
  const Real real_height = convert<Real>(height), real_width = convert<Real>(width);
  const Real image_x = location_x * real_width - 0.5f;
  const Real image_y = location_y * real_height - 0.5f;
  // Comparisons with a NaN are false. Only what is inside may be turned into an integer.
  const auto touches = (image_x > -1.0f) & (image_x < real_width) & (image_y > -1.0f) & (image_y < real_height);
  const Real x = touches ? image_x : zero;
  const Real y = touches ? image_y : zero;
  // Truncation rounds towards zero, so what is negative is one too high.
  const Integer truncated_x = convert<Integer>(x), truncated_y = convert<Integer>(y);
  const Integer left = x < zero ? truncated_x - 1 : truncated_x;
  const Integer top = y < zero ? truncated_y - 1 : truncated_y;

  SamplingPoint<Real, Integer> point;
  const Real fx = x - convert<Real>(left), fy = y - convert<Real>(top);
  point.fraction_x = fx;
  point.fraction_y = fy;
  point.coverage[0] = (1.0f - fy) * (1.0f - fx);
  point.coverage[1] = (1.0f - fy) * fx;
  point.coverage[2] = fy * (1.0f - fx);
  point.coverage[3] = fy * fx;

  const auto has_left = touches & (left >= 0), has_right = touches & (left + 1 < width);
  const auto has_top = top >= 0, has_bottom = top + 1 < height;
  const Integer first = top * width + left;
  point.pixel[0] = (has_top & has_left) ? first : none;
  point.pixel[1] = (has_top & has_right) ? first + 1 : none;
  point.pixel[2] = (has_bottom & has_left) ? first + width : none;
  point.pixel[3] = (has_bottom & has_right) ? first + width + 1 : none;
  return point;
}

template <typename Real>
struct PointGradient {
  Real location_x, location_y, attention_weight;
};

// `products` are the scalar products of the output's gradient with each corner's value, 0 for a corner outside.
template <typename Real>
MSDA_INLINE PointGradient<Real> point_gradient(
    Real fraction_x, Real fraction_y, Real attention_weight, const Real (&products)[kCorners], Real height, Real width
) {
  const Real top = (1.0f - fraction_x) * products[0] + fraction_x * products[1];
  const Real bottom = (1.0f - fraction_x) * products[2] + fraction_x * products[3];
  const Real along_x = (1.0f - fraction_y) * (products[1] - products[0]) + fraction_y * (products[3] - products[2]);
  PointGradient<Real> gradient;
  gradient.attention_weight = (1.0f - fraction_y) * top + fraction_y * bottom;
  gradient.location_x = attention_weight * width * along_x;
  gradient.location_y = attention_weight * height * (bottom - top);
  return gradient;
}

}  // namespace ms_deform_attn
