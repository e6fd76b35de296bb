/* What a decoder layer does beside products and attention, forward and backward, in float32: norms,
   activations and rotations, each in one pass over memory. Results do not depend on how many threads
   there are: rows are done one by one, and sums over rows in blocks of a fixed size. */

#define NORM_BLOCK 64 /* rows whose part of a weight's slope is summed at a time */

/* out = x * weight * scale, where the scale of a row is 1 / sqrt(mean of squares + epsilon). */
void norm(int64_t rows, int64_t width, const float *x, const float *weight, float epsilon, float *out,
          float *scales, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const float *from = x + row * width;
    float *to = out + row * width, squares = 0.0f;
    for (int64_t i = 0; i < width; i++) squares += from[i] * from[i];
    scales[row] = 1.0f / sqrtf(squares / (float)width + epsilon);
    for (int64_t i = 0; i < width; i++) to[i] = from[i] * scales[row] * weight[i];
  }
}

/* of_weight: (blocks, width), a block's part of the weight's slope each; NULL where it has none. */
void norm_backward(int64_t rows, int64_t width, const float *x, const float *weight,
                   const float *scales, const float *of_out, float *of_x, float *of_weight,
                   int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t block = 0; block < (rows + NORM_BLOCK - 1) / NORM_BLOCK; block++) {
    int64_t end = (block + 1) * NORM_BLOCK < rows ? (block + 1) * NORM_BLOCK : rows;
    float *part = of_weight ? of_weight + block * width : NULL;
    for (int64_t i = 0; part && i < width; i++) part[i] = 0.0f;
    for (int64_t row = block * NORM_BLOCK; row < end; row++) {
      const float *from = x + row * width, *slope = of_out + row * width;
      float *to = of_x + row * width, scale = scales[row], along = 0.0f;
      for (int64_t i = 0; i < width; i++) along += slope[i] * weight[i] * from[i];
      along *= scale * scale / (float)width;
      for (int64_t i = 0; i < width; i++) to[i] = scale * (slope[i] * weight[i] - along * from[i]);
      if (!part) continue;
      for (int64_t i = 0; i < width; i++) part[i] += slope[i] * from[i] * scale;
    }
  }
}

/* out = silu(gate) * up. */
void gate(int64_t count, const float *gates, const float *ups, float *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; i++)
    out[i] = gates[i] / (1.0f + exponential(-gates[i])) * ups[i];
}

void gate_backward(int64_t count, const float *gates, const float *ups, const float *of_out,
                   float *of_gates, float *of_ups, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t i = 0; i < count; i++) {
    float share = 1.0f / (1.0f + exponential(-gates[i]));
    of_gates[i] = of_out[i] * ups[i] * share * (1.0f + gates[i] * (1.0f - share));
    of_ups[i] = of_out[i] * gates[i] * share;
  }
}

/* Each number with the one half a head further turned by its angle; `back` turns slopes the other
   way. states: (tokens, heads, size). cosines, sines: (places, size), token t's at t mod places. */
void rotate(int64_t tokens, int64_t heads, int64_t size, int64_t places, const float *states,
          const float *cosines, const float *sines, int64_t back, float *out, int threads) {
  int64_t half = size / 2;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < tokens; t++) {
    const float *c = cosines + t % places * size, *s = sines + t % places * size;
    for (int64_t h = 0; h < heads; h++) {
      const float *from = states + (t * heads + h) * size;
      float *to = out + (t * heads + h) * size;
      if (back)
        for (int64_t i = 0; i < half; i++) {
          to[i] = from[i] * c[i] + from[i + half] * s[i + half];
          to[i + half] = from[i + half] * c[i + half] - from[i] * s[i];
        }
      else
        for (int64_t i = 0; i < half; i++) {
          to[i] = from[i] * c[i] - from[i + half] * s[i];
          to[i + half] = from[i + half] * c[i + half] + from[i] * s[i + half];
        }
    }
  }
}
