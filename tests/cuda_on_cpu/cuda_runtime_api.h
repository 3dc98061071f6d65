// Enough of CUDA's language to run kernels on a CPU, one warp at a time: the 32 threads of a warp are contexts that
// take turns whenever they exchange numbers. It stands in for CUDA's own header, so that no toolkit is needed.
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define __CUDACC__ 1
#define __host__
#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(threads)

using cudaStream_t = void*;

struct float4 {
  float x, y, z, w;
};
struct Dimensions {
  unsigned x;
};
inline Dimensions threadIdx, blockIdx, blockDim, gridDim;

class Warp {
 public:
  static constexpr int kLanes = 32;

  explicit Warp(std::function<void()> kernel) : kernel_(std::move(kernel)) {}

  // Threads [first_thread, first_thread + 32) of the block at hand.
  void run(unsigned first_thread) {
    current_ = this;
    finished_ = 0;
    for (int lane = 0; lane < kLanes; ++lane) {
      stacks_[lane] = std::make_unique<char[]>(kStack);
      getcontext(&lanes_[lane]);
      lanes_[lane].uc_stack = {stacks_[lane].get(), 0, kStack};
      lanes_[lane].uc_link = &scheduler_;
      makecontext(&lanes_[lane], &Warp::start, 0);
    }
    while (finished_ == 0) {
      for (lane_ = 0; lane_ < kLanes; ++lane_) {
        threadIdx.x = first_thread + lane_;
        swapcontext(&scheduler_, &lanes_[lane_]);
      }
      if (finished_ != 0 && finished_ != kLanes) throw std::logic_error("threads of a warp part while others wait");
    }
  }

  // The number that the lane at `distance` passes in the same exchange.
  static double exchange(double number, int distance) {
    Warp& warp = *current_;
    const int lane = warp.lane_;
    warp.slots_[lane] = number;
    warp.wait();  // until all have put theirs
    const double result = warp.slots_[lane ^ distance];
    warp.wait();  // until all have taken theirs
    return result;
  }

 private:
  static constexpr size_t kStack = 1 << 16;

  static void start() {
    current_->kernel_();
    ++current_->finished_;
  }
  void wait() { swapcontext(&lanes_[lane_], &scheduler_); }

  inline static Warp* current_ = nullptr;
  std::function<void()> kernel_;
  ucontext_t scheduler_, lanes_[kLanes];
  std::unique_ptr<char[]> stacks_[kLanes];
  double slots_[kLanes];
  int lane_ = 0, finished_ = 0;
};

template <typename T>
T __shfl_xor_sync(unsigned, T number, int distance) {
  return static_cast<T>(Warp::exchange(number, distance));
}

template <typename T>
void atomicAdd(T* sum, T number) {
  *sum += number;
}

template <typename Kernel, typename... Arguments>
void launch(unsigned blocks, unsigned threads, Kernel kernel, const Arguments&... arguments) {
  gridDim.x = blocks;
  blockDim.x = threads;
  Warp warp([&] { kernel(arguments...); });
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    for (unsigned first = 0; first < threads; first += Warp::kLanes) warp.run(first);
  }
}
