// Compiled for whatever the compiler takes for granted.
#include <math.h>

#include "kernels.h"
#include "numbers.h"
namespace {
#include "lanes_portable.h"
}
#include "kernels.inl"

const dyno::Kernels *dyno::portable() { return table(DYNO_PORTABLE, "portable C++"); }
