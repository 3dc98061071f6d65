// The points of some queries, found on their maps many at a time.
#pragma once

#include <algorithm>
#include <new>
#include <type_traits>
#include <utility>

#include "cpu_vector.h"
#include "sampling_point.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

constexpr std::align_val_t kCacheLine{64};

// Memory that starts with a cache line, so that no register is loaded from two.
template <typename T>
class Array {
 public:
  explicit Array(int64_t size)
      : data_(static_cast<T*>(::operator new(std::max<int64_t>(size, 1) * sizeof(T), kCacheLine))) {
    std::fill_n(data_, size, T(0));
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { ::operator delete(data_, kCacheLine); }
  T* data() const { return data_; }

 private:
  T* data_;
};

// Points that are found ahead of reading any value: finding takes vector instructions over points, reading takes them
// over channels. Arrays are filled up to whole registers.
template <typename Real>
class Points {
 public:
  static constexpr int kLanes = MSDA_REGISTER_BYTES / sizeof(Real);
  using Integer = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;
  using RealLanes = Vector<Real, kLanes>;
  using IntegerLanes = Vector<Integer, kLanes>;

  explicit Points(int64_t capacity) : Points(Whole{(capacity + kCacheLanes - 1) / kCacheLanes * kCacheLanes}) {}

  // To be set before `find`: the map of each point, the offset of the map's first value, and the point.
  Integer *height, *width;
  int64_t* origin;
  Real *location_x, *location_y, *weight;
  // Found, for each corner: as `locate` has it, the offset of its value, and its coverage times attention weight.
  Real *fraction_x, *fraction_y;
  Integer* pixel[kCorners];
  int64_t* offset[kCorners];
  Real* share[kCorners];
  Real* products;  // for the backward pass: those of a point's corners side by side

  // Finds the first `count` points. Pixels lie `stride` values apart; a corner outside its map gets the offset
  // `outside`.
  MSDA_FUNCTION void find(int64_t count, int64_t stride, int64_t outside) {
    for (int64_t i = 0; i < count; i += kLanes) {
      const auto weights = load_vector<RealLanes>(weight + i);
      const auto point = locate(
          load_vector<RealLanes>(location_x + i), load_vector<RealLanes>(location_y + i),
          load_vector<IntegerLanes>(height + i), load_vector<IntegerLanes>(width + i)
      );
      store_vector(fraction_x + i, point.fraction_x);
      store_vector(fraction_y + i, point.fraction_y);
      for (int k = 0; k < kCorners; ++k) {
        store_vector(share[k] + i, RealLanes(weights * point.coverage[k]));
        store_vector(pixel[k] + i, point.pixel[k]);
      }
    }
    for (int k = 0; k < kCorners; ++k) {
      for (int64_t i = 0; i < count; i += kOffsetLanes) {
        const auto pixels = load_vector<Vector<Integer, kOffsetLanes>>(pixel[k] + i);
        const auto wide = __builtin_convertvector(pixels, OffsetLanes);
        const OffsetLanes inside = load_vector<OffsetLanes>(origin + i) + wide * stride;
        store_vector(offset[k] + i, OffsetLanes(wide < 0 ? OffsetLanes{} + outside : inside));
      }
    }
  }

 private:
  static constexpr int kOffsetLanes = MSDA_REGISTER_BYTES / sizeof(int64_t);
  using OffsetLanes = Vector<int64_t, kOffsetLanes>;

  static constexpr int kCacheLanes = 16;  // a cache line of the smallest type

  struct Whole {
    int64_t size;
  };
  explicit Points(Whole whole_)
      : reals_((5 + 2 * kCorners) * whole_.size),
        integers_((2 + kCorners) * whole_.size),
        offsets_((1 + kCorners) * whole_.size) {
    const int64_t whole = whole_.size;
    Real* real = reals_.data();
    Integer* integer = integers_.data();
    int64_t* number = offsets_.data();
    for (Real** array : {&location_x, &location_y, &weight, &fraction_x, &fraction_y})
      *array = std::exchange(real, real + whole);
    for (Integer** array : {&height, &width}) *array = std::exchange(integer, integer + whole);
    origin = std::exchange(number, number + whole);
    products = std::exchange(real, real + kCorners * whole);
    for (int k = 0; k < kCorners; ++k) {
      share[k] = std::exchange(real, real + whole);
      pixel[k] = std::exchange(integer, integer + whole);
      offset[k] = std::exchange(number, number + whole);
    }
  }

  Array<Real> reals_;
  Array<Integer> integers_;
  Array<int64_t> offsets_;
};

// Locations alternate x and y in memory.
template <typename L, typename Real>
MSDA_FUNCTION void load_locations(const L* from, int64_t count, Real* x, Real* y) {
  int64_t i = 0;
  if constexpr (sizeof(L) == 4) {
    constexpr int kPairs = MSDA_REGISTER_BYTES / 8;
    for (; i + kPairs <= count; i += kPairs) {  // both numbers of a location as one 64-bit word
      const auto pairs = load_vector<Vector<uint64_t, kPairs>>(from + 2 * i);
      store_vector(x + i, __builtin_convertvector(pairs, Vector<uint32_t, kPairs>));
      store_vector(y + i, __builtin_convertvector(pairs >> 32, Vector<uint32_t, kPairs>));
    }
  }
  for (; i < count; ++i) {
    x[i] = static_cast<Real>(from[2 * i]);
    y[i] = static_cast<Real>(from[2 * i + 1]);
  }
}

// Points [from, from + count) of the tensors, in the value's type or in the sums', to [to, to + count).
template <typename T, typename Real>
MSDA_FUNCTION void load_points(
    const void* locations, const void* weights, bool as_value, int64_t from, int64_t count, Points<Real>& points,
    int64_t to
) {
  if (as_value) {
    load_locations(static_cast<const T*>(locations) + 2 * from, count, points.location_x + to, points.location_y + to);
    std::copy_n(static_cast<const T*>(weights) + from, count, points.weight + to);
  } else {
    load_locations(
        static_cast<const Real*>(locations) + 2 * from, count, points.location_x + to, points.location_y + to
    );
    std::copy_n(static_cast<const Real*>(weights) + from, count, points.weight + to);
  }
}

// The way back, for the gradients that took the points' places.
template <typename L, typename Real>
MSDA_FUNCTION void store_points(
    const Points<Real>& points, int64_t from, int64_t count, void* locations, void* weights, int64_t to
) {
  L* pairs = static_cast<L*>(locations) + 2 * to;
  for (int64_t i = 0; i < count; ++i) {
    pairs[2 * i] = static_cast<L>(points.location_x[from + i]);
    pairs[2 * i + 1] = static_cast<L>(points.location_y[from + i]);
  }
  std::copy_n(points.weight + from, count, static_cast<L*>(weights) + to);
}

}  // namespace MSDA_INSTRUCTIONS
}  // namespace ms_deform_attn
