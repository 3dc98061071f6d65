// Lanes of vector registers in another order.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu_vector.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

// Lane i of the result is lane Pattern::source(i) of a followed by b.
template <typename Pattern, typename V, int... kLane>
MSDA_FUNCTION auto pick_lanes(const V& a, const V& b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Pattern::source(kLane)...);
#else
  using T = std::remove_reference_t<decltype(a[0])>;
  Vector<std::remove_cv_t<T>, sizeof...(kLane)> result;
  constexpr int kLanes = sizeof(V) / sizeof(T);
  for (int lane = 0; lane < static_cast<int>(sizeof...(kLane)); ++lane) {
    const int from = Pattern::source(lane);
    result[lane] = from < kLanes ? a[from] : b[from - kLanes];
  }
  return result;
#endif
}

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
