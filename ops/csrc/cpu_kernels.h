// What the CPU kernels compute on, and where to find the ones for a processor and a type.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "sizes.h"

namespace ms_deform_attn {

// Contiguous tensors. Locations and weights are of the value's type, or of the one sums are held in: float32 for half
// precision.
struct ForwardData {
  bool in_place;  // few values are read twice, so they are not worth a copy
  bool locations_as_value;
  const void *value, *locations, *weights;
  const void* zeros;  // `channels` zeros of the value's type, read for corners outside a map
  void* output;
};

struct BackwardData {
  int64_t levels_at_once;  // levels of a task; divides their number
  bool sparse;             // grad_value is zero, and few of its numbers will change; else it holds nothing yet
  bool locations_as_value;
  const void *grad_output, *value, *locations, *weights;
  void *grad_value, *grad_locations, *grad_weights;
};

struct CpuKernels {
  // Rows [begin, end) of the output, counted as (batch, queries, heads) if `in_place`, else as (batch, heads, queries).
  void (*forward)(const Sizes&, const ForwardData&, int64_t begin, int64_t end);
  // Tasks [begin, end) of (batch, heads, levels / levels_at_once): the gradients of a task's values and points, which
  // no other task touches.
  void (*backward)(const Sizes&, const BackwardData&, int64_t begin, int64_t end);
};

// Null pointers where there are no kernels for the type.
namespace baseline {
CpuKernels kernels_for(c10::ScalarType value);
}
#if defined(__x86_64__)
namespace avx2 {
CpuKernels kernels_for(c10::ScalarType value);
}
namespace avx512 {
CpuKernels kernels_for(c10::ScalarType value);
}
#endif

}  // namespace ms_deform_attn
