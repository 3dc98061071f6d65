// The forward kernel.
#pragma once

#include <algorithm>
#include <deque>

#include "cpu_head_maps.h"
#include "cpu_kernels.h"
#include "cpu_points.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

// Pixels of a head's maps: `stride` values apart, with zeros for what is outside.
template <typename T>
struct PackedPixels {
  const T* first;
  int64_t stride;
  MSDA_FUNCTION const T* operator()(int64_t pixel) const { return first + pixel * stride; }
};
template <typename T>
struct PixelsInPlace {
  const T *first, *zeros;
  int64_t stride;
  MSDA_FUNCTION const T* operator()(int64_t pixel) const { return pixel < 0 ? zeros : first + pixel * stride; }
};

// Weighted sum of the corners of points [first, first + count).
template <typename T, int C, typename Pixels>
MSDA_FUNCTION void gather(
    const Pixels& pixels, int64_t channel, const Points<AccumulateOf<T>>& points, int64_t first, int64_t count,
    T* output
) {
  using B = Block<T, C>;
  using Register = typename B::Register;
  // Several sums side by side keep the multipliers busy; too many do not fit into the registers.
  constexpr int kSums = B::kRegisters >= 8 ? 1 : B::kRegisters >= 4 ? 2 : 4;
  Register sums[kSums][B::kRegisters];
  for (auto& registers : sums) {
    for (auto& one : registers) one = Register{};
  }
  const typename Points<AccumulateOf<T>>::Integer* pixel[kCorners];
  const AccumulateOf<T>* shares[kCorners];
  for (int k = 0; k < kCorners; ++k) {
    pixel[k] = points.pixel[k] + first;
    shares[k] = points.share[k] + first;
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int k = 0; k < kCorners; ++k) {
      Register corner[B::kRegisters];
      B::load(pixels(pixel[k][i]) + channel, corner);
      for (int r = 0; r < B::kRegisters; ++r) sums[k % kSums][r] += shares[k][i] * corner[r];
    }
  }
  for (int s = 1; s < kSums; ++s) {
    for (int r = 0; r < B::kRegisters; ++r) sums[0][r] += sums[s][r];
  }
  B::store(output, sums[0]);
}

// Asks for the corners of points [first, first + count) ahead of their use. They go to the second-level cache, which can
// wait for more of them at a time than the first.
template <typename T>
MSDA_FUNCTION void prefetch_corners(
    const PixelsInPlace<T>& pixels, const Points<AccumulateOf<T>>& points, int64_t first, int64_t count,
    int64_t channels
) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = first; i < first + count; ++i) {
    for (int k = 0; k < kCorners; ++k) {
      const T* corner = pixels(points.pixel[k][i]);
      for (int64_t c = 0; c < channels; c += kLine) __builtin_prefetch(corner + c, 0, 2);
    }
  }
}

// Asks for the locations and weights of a row ahead of their use, where a row is one head of one query.
template <typename T>
MSDA_FUNCTION void prefetch_points(const ForwardData& data, int64_t row, int64_t samples) {
  const int64_t bytes = samples * (data.locations_as_value ? sizeof(T) : sizeof(AccumulateOf<T>));
  const char* locations = static_cast<const char*>(data.locations) + 2 * row * bytes;
  const char* weights = static_cast<const char*>(data.weights) + row * bytes;
  for (int64_t i = 0; i < 2 * bytes; i += 64) __builtin_prefetch(locations + i);
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(weights + i);
}

// Rows of (batch, queries, heads), from the values where they lie. They come from memory, so a row's corners are asked
// for some rows ahead.
template <typename T>
MSDA_TARGET void forward_in_place(const Sizes& sizes, const ForwardData& data, int64_t begin, int64_t end) {
  const int64_t samples = sizes.samples(), heads = sizes.heads, channels = sizes.channels;
  constexpr int64_t kAhead = 3;  // rows
  std::deque<Points<AccumulateOf<T>>> points;
  for (int64_t i = 0; i <= kAhead; ++i) {
    points.emplace_back(samples).set_levels(sizes.levels.data(), sizes.points, samples, 0);
  }
  const auto pixels_of = [&](int64_t row) {
    const int64_t item = row / heads / sizes.queries, head = row % heads;
    const T* value = static_cast<const T*>(data.value) + (item * sizes.positions * heads + head) * channels;
    return PixelsInPlace<T>{value, static_cast<const T*>(data.zeros), heads * channels};
  };
  for (int64_t ahead = begin; ahead < end + kAhead; ++ahead) {
    if (ahead < end) {
      auto& found = points[ahead % (kAhead + 1)];
      load_points<T>(data.locations, data.weights, data.locations_as_value, ahead * samples, samples, found, 0);
      found.find(samples, -1, 0);
      prefetch_corners<T>(pixels_of(ahead), found, 0, samples, channels);
    }
    const int64_t row = ahead - kAhead;
    if (row < begin) continue;
    const auto pixels = pixels_of(row);
    T* output = static_cast<T*>(data.output) + row * channels;
#define MSDA_STEP(C) gather<T, C>(pixels, channel, points[row % (kAhead + 1)], 0, samples, output + channel)
    MSDA_FOR_CHANNEL_BLOCKS(channels, MSDA_STEP);
#undef MSDA_STEP
  }
}

// Rows of (batch, heads, queries), from a copy of a head's maps: pixels that lie side by side fill the cache better
// than pixels with those of the other heads between them.
template <typename T>
MSDA_TARGET void forward_from_copy(const Sizes& sizes, const ForwardData& data, int64_t begin, int64_t end) {
  using Found = Points<AccumulateOf<T>>;
  const int64_t samples = sizes.samples(), heads = sizes.heads, channels = sizes.channels, queries = sizes.queries;
  const int64_t at_once = std::max<int64_t>(1, 8 * Found::kLanes / std::max<int64_t>(1, samples));
  Found points(at_once * samples);
  points.set_levels(sizes.levels.data(), sizes.points, samples, 0);
  HeadCopy<T> copy(sizes.positions, channels);
  int64_t copied = -1;
  for (int64_t index = begin; index < end;) {
    const int64_t query = index % queries, head = index / queries % heads, item = index / queries / heads;
    const int64_t count = std::min({at_once, queries - query, end - index});
    if (index / queries != copied) {
      copied = index / queries;
      copy.load(
          static_cast<const T*>(data.value) + (item * sizes.positions * heads + head) * channels, heads * channels
      );
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t row = (item * queries + query + i) * heads + head;
      prefetch_points<T>(data, row + at_once * heads, samples);
      load_points<T>(
          data.locations, data.weights, data.locations_as_value, row * samples, samples, points, i * samples
      );
    }
    points.find(count * samples, static_cast<typename Found::Integer>(sizes.positions), 0);
    const PackedPixels<T> pixels{copy.values(), channels};
    for (int64_t i = 0; i < count; ++i) {
      T* output = static_cast<T*>(data.output) + ((item * queries + query + i) * heads + head) * channels;
#define MSDA_STEP(C) gather<T, C>(pixels, channel, points, i * samples, samples, output + channel)
      MSDA_FOR_CHANNEL_BLOCKS(channels, MSDA_STEP);
#undef MSDA_STEP
    }
    index += count;
  }
}

template <typename T>
MSDA_TARGET void forward(const Sizes& sizes, const ForwardData& data, int64_t begin, int64_t end) {
  data.in_place ? forward_in_place<T>(sizes, data, begin, end) : forward_from_copy<T>(sizes, data, begin, end);
}

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
