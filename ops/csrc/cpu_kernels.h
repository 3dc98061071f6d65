// What the CPU kernels compute on, and where to find the ones for a processor and a type.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>

#include "sizes.h"

namespace ms_deform_attn {

// Contiguous tensors. `zeros` is `channels` zeros of the value's type, read for corners outside a map. Locations and
// weights are of the value's type, or of the one sums are held in: float32 for half precision.
struct ForwardData {
  bool locations_as_value;
  const void *value, *locations, *weights, *zeros;
  void* output;
};

struct BackwardData {
  bool locations_as_value;
  const void *grad_output, *value, *locations, *weights, *zeros;
  void *grad_value, *grad_locations, *grad_weights;
};

struct CpuKernels {
  // Rows [begin, end) of the output, seen as (batch * queries, heads * channels).
  void (*forward)(const Sizes&, const ForwardData&, int64_t begin, int64_t end);
  // Maps [begin, end): their part of grad_value and their points' gradients, which no other map touches.
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
