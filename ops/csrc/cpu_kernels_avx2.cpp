#if defined(__x86_64__)
#define MSDA_INSTRUCTIONS avx2
#define MSDA_TARGET __attribute__((target("avx2,fma,f16c")))
#define MSDA_REGISTER_BYTES 32
#include "cpu_kernels_impl.h"
#endif
