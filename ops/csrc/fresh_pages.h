// Pages of the operating system that are about to be written for the first time.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23  // since Linux 5.14
#endif
#endif

namespace ms_deform_attn {

// Asks for the pages of fresh memory many at a time: left to itself, the system is interrupted for each one as it is
// touched, which takes longer than all else that is done with it.
class FreshPages {
 public:
  // The memory that follows is about; what was asked for in another is forgotten.
  void look_at(void* memory, size_t bytes) {
    if (memory == memory_) return;
    memory_ = memory;
    first_page_ = reinterpret_cast<uintptr_t>(memory) / kPage;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes + kPage - 1) / kPage;
    wanted_.assign((end - first_page_ + 63) / 64, 0);
    asked_.assign(wanted_.size(), 0);
  }

  void want(const void* from, size_t bytes) {
    const auto begin = reinterpret_cast<uintptr_t>(from);
    for (uintptr_t page = begin / kPage; page <= (begin + bytes - 1) / kPage; ++page) {
      wanted_[(page - first_page_) / 64] |= uint64_t{1} << (page - first_page_) % 64;
    }
  }

  // Asks for what is wanted and was not asked for before. It is only a hint: where it fails, pages come when touched.
  void ask() {
    for (size_t word = 0; word < wanted_.size(); ++word) {
      uint64_t missing = wanted_[word] & ~asked_[word];
      asked_[word] |= missing;
      while (missing != 0) {
        const int first = __builtin_ctzll(missing);
        const uint64_t from_first = ~(missing >> first);
        const int count = from_first == 0 ? 64 - first : std::min(__builtin_ctzll(from_first), 64 - first);
        missing &= count == 64 ? 0 : ~(((uint64_t{1} << count) - 1) << first);
#if defined(__linux__)
        void* pages = reinterpret_cast<void*>((first_page_ + word * 64 + first) * kPage);
        madvise(pages, count * kPage, MADV_POPULATE_WRITE);
#endif
      }
    }
  }

 private:
  static constexpr uintptr_t kPage = 4096;  // where pages are larger, a hint is refused or given twice

  void* memory_ = nullptr;
  uintptr_t first_page_ = 0;
  std::vector<uint64_t> wanted_, asked_;  // a bit for each page
};

}  // namespace ms_deform_attn
