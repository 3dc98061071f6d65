// The points of some queries, found on their maps many at a time.
#pragma once

#include <algorithm>
#include <new>
#include <type_traits>
#include <utility>

#include "cpu_lanes.h"
#include "cpu_vector.h"
#include "sampling_point.h"
#include "sizes.h"

namespace ms_deform_attn {
namespace MSDA_INSTRUCTIONS {

constexpr std::align_val_t kCacheLine{64};

// Memory that starts with a cache line, so that no register is loaded from two.
template <typename T>
class Array {
 public:
  explicit Array(int64_t size)
      : data_(static_cast<T*>(::operator new(std::max<int64_t>(size, 1) * sizeof(T), kCacheLine))) {}
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

  // To be set before `find`: the map of each point, the number of the map's first pixel, and the point.
  Integer *height, *width, *start;
  Real *location_x, *location_y, *weight;
  // Found, for each corner: as `locate` has it, the number of its pixel, and its coverage times attention weight.
  Real *fraction_x, *fraction_y;
  Integer* pixel[kCorners];
  Real* share[kCorners];
  Real* products;  // for the backward pass: those of a point's corners side by side

  // Sets the maps of whole queries, for as many as there is room for. Pixels count from that of `first_pixel`.
  void set_levels(const Level* levels, int64_t points_of_level, int64_t points_of_query, int64_t first_pixel) {
    if (points_of_query == 0) return;
    for (int64_t i = 0; i < capacity_; ++i) {
      const Level& level = levels[i % points_of_query / points_of_level];
      height[i] = level.height;
      width[i] = level.width;
      start[i] = static_cast<Integer>(level.start - first_pixel);
    }
  }

  // Finds the first `count` points. Pixels are numbered from `first` on, and a corner outside its map gets `outside`.
  MSDA_FUNCTION void find(int64_t count, Integer outside, Integer first) {
    for (int64_t i = 0; i < count; i += kLanes) {
      const auto weights = load_vector<RealLanes>(weight + i);
      const IntegerLanes starts = load_vector<IntegerLanes>(start + i) + first;
      const auto point = locate(
          load_vector<RealLanes>(location_x + i), load_vector<RealLanes>(location_y + i),
          load_vector<IntegerLanes>(height + i), load_vector<IntegerLanes>(width + i)
      );
      store_vector(fraction_x + i, point.fraction_x);
      store_vector(fraction_y + i, point.fraction_y);
      for (int k = 0; k < kCorners; ++k) {
        const IntegerLanes pixels = point.pixel[k];
        store_vector(share[k] + i, RealLanes(weights * point.coverage[k]));
        store_vector(pixel[k] + i, IntegerLanes(pixels < 0 ? IntegerLanes{} + outside : pixels + starts));
      }
    }
  }

 private:
  static constexpr int kCacheLanes = 16;  // a cache line of the smallest type

  struct Whole {
    int64_t size;
  };
  explicit Points(Whole whole)
      : capacity_(whole.size), reals_((5 + 2 * kCorners) * whole.size), integers_((3 + kCorners) * whole.size) {
    Real* real = reals_.data();
    Integer* integer = integers_.data();
    std::fill_n(real, (5 + 2 * kCorners) * capacity_, Real(0));  // the last register is not always full
    std::fill_n(integer, (3 + kCorners) * capacity_, Integer(0));
    for (Real** array : {&location_x, &location_y, &weight, &fraction_x, &fraction_y})
      *array = std::exchange(real, real + capacity_);
    for (Integer** array : {&height, &width, &start}) *array = std::exchange(integer, integer + capacity_);
    products = std::exchange(real, real + kCorners * capacity_);
    for (int k = 0; k < kCorners; ++k) {
      share[k] = std::exchange(real, real + capacity_);
      pixel[k] = std::exchange(integer, integer + capacity_);
    }
  }

  int64_t capacity_;
  Array<Real> reals_;
  Array<Integer> integers_;
};

template <int kFirst>
struct EverySecond {
  static constexpr int source(int lane) { return 2 * lane + kFirst; }
};

// Locations alternate x and y in memory. What is written here is read as whole registers soon after, which a processor
// does quickly where it was written as whole registers too.
template <typename L, typename Real>
MSDA_FUNCTION void load_locations(const L* from, int64_t count, Real* x, Real* y) {
  int64_t i = 0;
  if constexpr (std::is_same_v<L, Real>) {
    constexpr int kLanes = MSDA_REGISTER_BYTES / sizeof(Real);
    constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
    for (; i + kLanes <= count; i += kLanes) {
      const auto first = load_vector<Vector<Real, kLanes>>(from + 2 * i);
      const auto second = load_vector<Vector<Real, kLanes>>(from + 2 * i + kLanes);
      store_vector(x + i, pick_lanes<EverySecond<0>>(first, second, lanes));
      store_vector(y + i, pick_lanes<EverySecond<1>>(first, second, lanes));
    }
  }
  for (; i < count; ++i) {
    x[i] = static_cast<Real>(from[2 * i]);
    y[i] = static_cast<Real>(from[2 * i + 1]);
  }
}

template <typename L, typename Real>
MSDA_FUNCTION void load_weights(const L* from, int64_t count, Real* to) {
  int64_t i = 0;
  if constexpr (std::is_same_v<L, Real>) {
    constexpr int kLanes = MSDA_REGISTER_BYTES / sizeof(Real);
    for (; i + kLanes <= count; i += kLanes) store_vector(to + i, load_vector<Vector<Real, kLanes>>(from + i));
  }
  for (; i < count; ++i) to[i] = static_cast<Real>(from[i]);
}

// Points [from, from + count) of the tensors, in the value's type or in the sums', to [to, to + count).
template <typename T, typename Real>
MSDA_FUNCTION void load_points(
    const void* locations, const void* weights, bool as_value, int64_t from, int64_t count, Points<Real>& points,
    int64_t to
) {
  if (as_value) {
    load_locations(static_cast<const T*>(locations) + 2 * from, count, points.location_x + to, points.location_y + to);
    load_weights(static_cast<const T*>(weights) + from, count, points.weight + to);
  } else {
    load_locations(
        static_cast<const Real*>(locations) + 2 * from, count, points.location_x + to, points.location_y + to
    );
    load_weights(static_cast<const Real*>(weights) + from, count, points.weight + to);
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
