// What the CUDA kernels are launched with.
#pragma once

#include <c10/core/ScalarType.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "sizes.h"

namespace ms_deform_attn {
namespace cuda {

// The first levels travel with the kernel's arguments, so a call waits for no copy; any more lie in device memory.
struct LevelTable {
  static constexpr int32_t kHere = 32;
  Level here[kHere];
  const Level* more;
  int32_t count;

#if defined(__CUDACC__)
  __device__ __forceinline__ const Level& operator[](int32_t level) const {
    return level < kHere ? here[level] : more[level - kHere];
  }
#endif
};

// Contiguous tensors. Locations and weights are of the value's type, or of the one sums are held in.
struct Problem {
  int64_t batch, positions, heads, channels, queries, points;
  LevelTable levels;
  bool locations_as_value;
  const void *value, *locations, *weights;
};

struct ForwardProblem : Problem {
  void* output;
};

struct BackwardProblem : Problem {
  bool deterministic;
  const void* grad_output;
  void* grad_value;  // zeros of the type sums are held in, which the gradients are added to
  void *grad_locations, *grad_weights;
};

// Queue the kernels on a stream; the caller asks CUDA for errors. False if there is no kernel for the value's type.
bool launch_forward(c10::ScalarType value_type, const ForwardProblem& problem, cudaStream_t stream);
bool launch_backward(c10::ScalarType value_type, const BackwardProblem& problem, cudaStream_t stream);

}  // namespace cuda
}  // namespace ms_deform_attn
