// The CUDA kernels. Neighbouring threads take neighbouring channels, several at a time, so that memory is read in whole
// sectors; the threads of a row (one head of one query) find its points each for themselves.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <type_traits>

#include "cuda_problem.h"
#include "sampling_point.h"

namespace ms_deform_attn {
namespace cuda {

constexpr int kThreadsOfWarp = 32;
constexpr int kThreadsOfBlock = 256;

template <typename T>
using AccumulateOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

// V channels that are read and written at once.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T channel[V];
};

template <typename T, int V>
__device__ __forceinline__ Pack<T, V> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, V>*>(from);
}

template <typename T>
__device__ __forceinline__ AccumulateOf<T> load_place(const void* places, bool as_value, int64_t index) {
  using Acc = AccumulateOf<T>;
  return as_value ? static_cast<Acc>(static_cast<const T*>(places)[index]) : static_cast<const Acc*>(places)[index];
}

template <typename T>
__device__ __forceinline__ void store_place(void* places, bool as_value, int64_t index, AccumulateOf<T> number) {
  if (as_value) {
    static_cast<T*>(places)[index] = static_cast<T>(number);
  } else {
    static_cast<AccumulateOf<T>*>(places)[index] = number;
  }
}

template <typename T>
__device__ __forceinline__ SamplingPoint<AccumulateOf<T>, int32_t> load_point(
    const Problem& problem, int64_t index, const Level& level
) {
  return locate(
      load_place<T>(problem.locations, problem.locations_as_value, 2 * index),
      load_place<T>(problem.locations, problem.locations_as_value, 2 * index + 1), level.height, level.width
  );
}

template <int V, typename Acc>
__device__ __forceinline__ void add_atomically(Acc* sums, const Acc (&numbers)[V]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  constexpr bool kByFour = V % 4 == 0 && std::is_same_v<Acc, float>;
#else
  constexpr bool kByFour = false;
#endif
  if constexpr (kByFour) {
#pragma unroll
    for (int v = 0; v < V; v += 4) {
      const float4 four = {numbers[v], numbers[v + 1], numbers[v + 2], numbers[v + 3]};
      atomicAdd(reinterpret_cast<float4*>(sums + v), four);
    }
  } else {
#pragma unroll
    for (int v = 0; v < V; ++v) atomicAdd(sums + v, numbers[v]);
  }
}

// A thread for V channels of a row.
template <typename T, int V>
__global__ void __launch_bounds__(kThreadsOfBlock) forward_kernel(const ForwardProblem problem) {
  using Acc = AccumulateOf<T>;
  const int64_t packs = problem.channels / V, pitch = problem.heads * problem.channels;
  const int64_t total = problem.batch * problem.queries * problem.heads * packs;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < total; index += step) {
    const int64_t row = index / packs, channel = index % packs * V;
    const int64_t item = row / (problem.heads * problem.queries), head = row % problem.heads;
    const T* value =
        static_cast<const T*>(problem.value) + item * problem.positions * pitch + head * problem.channels + channel;
    Acc sums[V] = {};
    int64_t place = row * problem.levels.count * problem.points;
    for (int32_t l = 0; l < problem.levels.count; ++l) {
      const Level level = problem.levels[l];
      const T* map = value + level.start * pitch;
      for (int64_t p = 0; p < problem.points; ++p, ++place) {
        const auto point = load_point<T>(problem, place, level);
        const Acc weight = load_place<T>(problem.weights, problem.locations_as_value, place);
#pragma unroll
        for (int k = 0; k < kCorners; ++k) {
          if (point.pixel[k] < 0) continue;
          const auto corner = load_pack<T, V>(map + point.pixel[k] * pitch);
          const Acc share = weight * point.coverage[k];
#pragma unroll
          for (int v = 0; v < V; ++v) sums[v] += share * static_cast<Acc>(corner.channel[v]);
        }
      }
    }
    Pack<T, V> output;
#pragma unroll
    for (int v = 0; v < V; ++v) output.channel[v] = static_cast<T>(sums[v]);
    *reinterpret_cast<Pack<T, V>*>(static_cast<T*>(problem.output) + row * problem.channels + channel) = output;
  }
}

// `threads_of_row` threads for a row, a power of two within a warp. Each takes every threads_of_row-th pack of
// channels, and what they find of the points' gradients is added up. With kScatter the gradients of the values are
// added too.
template <typename T, int V, bool kScatter>
__global__ void __launch_bounds__(kThreadsOfBlock) backward_kernel(const BackwardProblem problem, int threads_of_row) {
  using Acc = AccumulateOf<T>;
  const int64_t packs = problem.channels / V, pitch = problem.heads * problem.channels;
  const int64_t rows = problem.batch * problem.queries * problem.heads;
  const int lane = threadIdx.x % kThreadsOfWarp, first_pack = lane % threads_of_row;
  const int rows_of_warp = kThreadsOfWarp / threads_of_row;
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (blockDim.x / kThreadsOfWarp);
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kThreadsOfWarp) + threadIdx.x / kThreadsOfWarp;
  // All threads of a warp stay together to the end, since they exchange numbers; those without a row repeat the last.
  for (int64_t first_row = warp * rows_of_warp; first_row < rows; first_row += warps * rows_of_warp) {
    const int64_t own_row = first_row + lane / threads_of_row;
    const bool has_row = own_row < rows;
    const int64_t row = has_row ? own_row : rows - 1;
    const int64_t item = row / (problem.heads * problem.queries), head = row % problem.heads;
    const int64_t offset = item * problem.positions * pitch + head * problem.channels;
    const T* grad_output = static_cast<const T*>(problem.grad_output) + row * problem.channels;
    int64_t place = row * problem.levels.count * problem.points;
    for (int32_t l = 0; l < problem.levels.count; ++l) {
      const Level level = problem.levels[l];
      const int64_t map = offset + level.start * pitch;
      for (int64_t p = 0; p < problem.points; ++p, ++place) {
        const auto point = load_point<T>(problem, place, level);
        const Acc weight = load_place<T>(problem.weights, problem.locations_as_value, place);
        Acc products[kCorners] = {};
        for (int64_t pack = first_pack; pack < packs; pack += threads_of_row) {
          const auto gradient = load_pack<T, V>(grad_output + pack * V);
#pragma unroll
          for (int k = 0; k < kCorners; ++k) {
            if (point.pixel[k] < 0) continue;
            const int64_t at = map + point.pixel[k] * pitch + pack * V;
            const auto corner = load_pack<T, V>(static_cast<const T*>(problem.value) + at);
            const Acc share = weight * point.coverage[k];
            Acc grad_value[V];
#pragma unroll
            for (int v = 0; v < V; ++v) {
              products[k] += static_cast<Acc>(gradient.channel[v]) * static_cast<Acc>(corner.channel[v]);
              grad_value[v] = share * static_cast<Acc>(gradient.channel[v]);
            }
            if constexpr (kScatter) {
              if (has_row) add_atomically(static_cast<Acc*>(problem.grad_value) + at, grad_value);
            }
          }
        }
        auto found = point_gradient(
            point.fraction_x, point.fraction_y, weight, products, static_cast<Acc>(level.height),
            static_cast<Acc>(level.width)
        );
        for (int distance = threads_of_row / 2; distance > 0; distance /= 2) {
          found.location_x += __shfl_xor_sync(0xffffffffu, found.location_x, distance);
          found.location_y += __shfl_xor_sync(0xffffffffu, found.location_y, distance);
          found.attention_weight += __shfl_xor_sync(0xffffffffu, found.attention_weight, distance);
        }
        if (has_row && first_pack == 0) {
          store_place<T>(problem.grad_locations, problem.locations_as_value, 2 * place, found.location_x);
          store_place<T>(problem.grad_locations, problem.locations_as_value, 2 * place + 1, found.location_y);
          store_place<T>(problem.grad_weights, problem.locations_as_value, place, found.attention_weight);
        }
      }
    }
  }
}

// The gradients of the values in an order that never changes: one thread adds up all that falls on one channel of a
// map.
template <typename T>
__global__ void __launch_bounds__(kThreadsOfBlock) grad_value_kernel(const BackwardProblem problem) {
  using Acc = AccumulateOf<T>;
  const int64_t pitch = problem.heads * problem.channels;
  const int64_t total = problem.batch * problem.levels.count * pitch;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < total; index += step) {
    const int64_t column = index % pitch, head = column / problem.channels;  // of all heads' channels
    const auto l = static_cast<int32_t>(index / pitch % problem.levels.count);
    const int64_t item = index / pitch / problem.levels.count;
    const Level level = problem.levels[l];
    Acc* map = static_cast<Acc*>(problem.grad_value) + (item * problem.positions + level.start) * pitch + column;
    for (int64_t query = 0; query < problem.queries; ++query) {
      const int64_t item_query = item * problem.queries + query;
      const Acc gradient = static_cast<Acc>(static_cast<const T*>(problem.grad_output)[item_query * pitch + column]);
      int64_t place = ((item_query * problem.heads + head) * problem.levels.count + l) * problem.points;
      for (int64_t p = 0; p < problem.points; ++p, ++place) {
        const auto point = load_point<T>(problem, place, level);
        const Acc weighted = load_place<T>(problem.weights, problem.locations_as_value, place) * gradient;
#pragma unroll
        for (int k = 0; k < kCorners; ++k) {
          if (point.pixel[k] >= 0) map[point.pixel[k] * pitch] += weighted * point.coverage[k];
        }
      }
    }
  }
}

}  // namespace cuda
}  // namespace ms_deform_attn
