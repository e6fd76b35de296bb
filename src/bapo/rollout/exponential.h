/* Stands before every file of C functions that is built; see native.py. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^x, 2^n times a polynomial of the rest, after Cephes' expf. Sums may be taken in another order,
   which joins the two parts of ln 2: the relative error is up to (1 + |x|) times 1e-7, so that no
   share of a softmax is further than 1e-7 from what it should be. */
static inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  float n = rintf(x * 1.44269504088896341f);
  float rest = x - n * 0.693359375f;
  rest += n * 2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  uint32_t bits = (uint32_t)((int32_t)n + 127) << 23; /* any number for NaN, which `sum` keeps */
  float power;
  memcpy(&power, &bits, sizeof power);
  return sum * power;
}

