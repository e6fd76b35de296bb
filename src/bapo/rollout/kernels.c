/* What a token step does beside matrix products: norms, attention, activations, drawing, in
   float32.

   Each function does the rows it is given on several threads, every row by itself, so that results
   do not depend on how many threads there are. Numbers that are not finite stay not finite. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* out = states / sqrt(mean of squares + epsilon), row by row. */
void normalise(int64_t rows, int64_t width, const float *states, float epsilon, float *out,
               int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const float *from = states + row * width;
    float *to = out + row * width;
    float squares = 0.0f;
    for (int64_t i = 0; i < width; i++) squares += from[i] * from[i];
    float scale = 1.0f / sqrtf(squares / (float)width + epsilon);
    for (int64_t i = 0; i < width; i++) to[i] = from[i] * scale;
  }
}

/* out = silu(gate) * up, where a row of `joined` is gate and then up. */
void gated_activation(int64_t rows, int64_t width, const float *joined, float *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    const float *gate = joined + 2 * row * width, *up = gate + width;
    float *to = out + row * width;
    for (int64_t i = 0; i < width; i++) to[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
  }
}

/* Everything `attend` is told; the fields are explained in native.py. */
struct batch {
  int64_t rows, heads, key_heads, size, capacity, longest;
  const int64_t *place, *own, *first, *width, *pad;
  const float *prompt_keys, *prompt_values;
  float *keys, *values;
};

static inline void rotate(int64_t size, float *vector, const float *rotation) {
  for (int64_t i = 0; i < size; i += 2) {
    float real = vector[i], imaginary = vector[i + 1];
    vector[i] = real * rotation[i] - imaginary * rotation[i + 1];
    vector[i + 1] = real * rotation[i + 1] + imaginary * rotation[i];
  }
}

static inline float scores_of(int64_t size, int64_t count, const float *query, const float *keys,
                              float *scores, float largest) {
  for (int64_t j = 0; j < count; j++) {
    float sum = 0.0f;
    for (int64_t i = 0; i < size; i++) sum += query[i] * keys[j * size + i];
    scores[j] = sum;
    largest = sum > largest ? sum : largest;
  }
  return largest;
}

static inline void add_values(int64_t size, int64_t count, const float *shares, const float *values,
                              float *restrict sum) {
  for (int64_t j = 0; j < count; j++)
    for (int64_t i = 0; i < size; i++) sum[i] += shares[j] * values[j * size + i];
}

/* The vector at which a row's own keys begin in the cache. */
static inline int64_t own_keys(const struct batch *batch, int64_t row, int64_t head) {
  return (batch->place[row] * batch->key_heads + head) * batch->capacity;
}

/* One key head of one row: its newest key and value enter the cache, then its queries attend. */
static inline void attend_head(const struct batch *batch, int64_t size, int64_t row, int64_t head,
                               float *qkv, const float *rotation, float *scores, float *out) {
  int64_t group = batch->heads / batch->key_heads;
  int64_t told = batch->width[row] - batch->pad[row], before = batch->own[row];
  int64_t shared = (batch->first[row] + head * batch->width[row] + batch->pad[row]) * size;
  const float *prompt_keys = batch->prompt_keys + shared;
  const float *prompt_values = batch->prompt_values + shared;
  int64_t place = own_keys(batch, row, head) * size, own = before + 1;
  float *keys = batch->keys + place, *values = batch->values + place;
  int64_t next = head + 1 < batch->key_heads ? row : row + 1;
  if (next < batch->rows) {
    int64_t from = own_keys(batch, next, next == row ? head + 1 : 0) * size;
    for (int64_t i = 0; i < (batch->own[next] + 1) * size; i += 16) {
      __builtin_prefetch(batch->keys + from + i);
      __builtin_prefetch(batch->values + from + i);
    }
  }
  float *key = qkv + (batch->heads + head) * size;
  rotate(size, key, rotation);
  memcpy(keys + before * size, key, size * sizeof(float));
  memcpy(values + before * size, key + batch->key_heads * size, size * sizeof(float));
  for (int64_t g = head * group; g < (head + 1) * group; g++) {
    float *query = qkv + g * size, *to = out + g * size;
    rotate(size, query, rotation);
    float largest = scores_of(size, told, query, prompt_keys, scores, -INFINITY);
    largest = scores_of(size, own, query, keys, scores + told, largest);
    float total = 0.0f;
    for (int64_t j = 0; j < told + own; j++) {
      scores[j] = exponential(scores[j] - largest);
      total += scores[j];
    }
    float sum[size];
    memset(sum, 0, sizeof sum);
    add_values(size, told, scores, prompt_values, sum);
    add_values(size, own, scores + told, values, sum);
    for (int64_t i = 0; i < size; i++) to[i] = sum[i] / total;
  }
}

/* Attention of the newest token of every row to its prompt, its completion and itself.

   qkv: (rows, (heads + 2 * key_heads) * size), queries scaled; queries and keys are rotated here.
   rotation: (positions, size) cosine and sine in turn. positions: (rows).
   out: (rows, heads * size). Returns 0, or 1 where there is no memory. */
int attend(const struct batch *batch, float *qkv, const float *rotation, const int64_t *positions,
           float *out, int threads) {
  int64_t size = batch->size, stride = (batch->heads + 2 * batch->key_heads) * size;
  int64_t widest = 0;
  for (int64_t row = 0; row < batch->rows; row++)
    widest = batch->width[row] > widest ? batch->width[row] : widest;
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    float *scores = malloc((widest + batch->longest + 1) * sizeof(float));
    if (!scores) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < batch->rows; row++) {
      float *mine = qkv + row * stride, *to = out + row * batch->heads * size;
      const float *turn = rotation + positions[row] * size;
      if (!scores) continue;
      for (int64_t head = 0; head < batch->key_heads; head++) {
        /* A size the compiler knows is a loop it can unroll. */
        switch (size) {
        case 16: attend_head(batch, 16, row, head, mine, turn, scores, to); break;
        case 32: attend_head(batch, 32, row, head, mine, turn, scores, to); break;
        case 64: attend_head(batch, 64, row, head, mine, turn, scores, to); break;
        case 128: attend_head(batch, 128, row, head, mine, turn, scores, to); break;
        default: attend_head(batch, size, row, head, mine, turn, scores, to);
        }
      }
    }
    free(scores);
  }
  return failed;
}

/* Weights whose sum `draw` knows before it looks at any of them. */
#define DRAWN_AT_ONCE 128

/* The largest of some numbers, whichever are not NaN. A running maximum is not vectorised by itself,
   but several beside one another are. */
static float largest_of(int64_t count, const float *numbers) {
  float most[16];
  for (int j = 0; j < 16; j++) most[j] = -INFINITY;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (int j = 0; j < 16; j++) most[j] = numbers[i + j] > most[j] ? numbers[i + j] : most[j];
  for (; i < count; i++) most[0] = numbers[i] > most[0] ? numbers[i] : most[0];
  for (int j = 1; j < 16; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
  return most[0];
}

/* The weights of a row's tokens, 1 for the likeliest, and in `sums` those of all up to the end of
   each block of them. A probability below 1e-38 is 0. */
static void weigh(int64_t width, const float *logits, float largest, float scale, float *weights,
                  double *sums) {
  double total = 0.0;
  for (int64_t start = 0; start < width; start += DRAWN_AT_ONCE) {
    int64_t end = start + DRAWN_AT_ONCE < width ? start + DRAWN_AT_ONCE : width;
    double sum = 0.0;
    for (int64_t i = start; i < end; i++) {
      float exponent = (logits[i] - largest) * scale;
      weights[i] = exponent < -87.0f ? 0.0f : exponential(exponent);
      sum += weights[i];
    }
    total += sum;
    sums[start / DRAWN_AT_ONCE] = total;
  }
}

/* The first token up to which weights sum to more than the target, which is less than all of them.
   Its own weight is not 0, whatever rounding does to sums taken in another order. */
static int64_t first_above(int64_t width, const float *weights, const double *sums, double target) {
  int64_t block = 0, last = (width - 1) / DRAWN_AT_ONCE;
  while (block < last && !(sums[block] > target)) block++;
  int64_t start = block * DRAWN_AT_ONCE, found = start;
  int64_t end = start + DRAWN_AT_ONCE < width ? start + DRAWN_AT_ONCE : width;
  double sum = block ? sums[block - 1] : 0.0;
  for (int64_t i = start; i < end && sum <= target; i++) {
    if (weights[i] > 0.0f) found = i;
    sum += weights[i];
  }
  return found;
}

/* One token of every row, from the softmax of the logits at a temperature: the first whose
   cumulative probability exceeds the row's uniform.

   logits: (rows, width). uniforms: (rows), in [0, 1). tokens, logps: (rows), are written. The
   log-probability is exact but for the sum of the weights, whose relative error is that of
   `exponential` in the mean over the distribution. Returns 0, or 1 where there is no memory. */
int draw(int64_t rows, int64_t width, const float *logits, const double *uniforms,
         double temperature, int64_t *tokens, float *logps, int threads) {
  int64_t blocks = (width + DRAWN_AT_ONCE - 1) / DRAWN_AT_ONCE;
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    double *sums = malloc(blocks * sizeof(double) + width * sizeof(float));
    if (!sums) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
      if (!sums) continue;
      float *weights = (float *)(sums + blocks);
      const float *mine = logits + row * width;
      float largest = largest_of(width, mine);
      weigh(width, mine, largest, (float)(1.0 / temperature), weights, sums);
      /* Rounding may lift the product to the sum itself, behind which there is no token. */
      double total = sums[blocks - 1], below = nextafter(total, 0.0);
      double target = uniforms[row] * total < below ? uniforms[row] * total : below;
      tokens[row] = first_above(width, weights, sums, target);
      logps[row] = (float)(((double)mine[tokens[row]] - largest) / temperature - log(total));
    }
    free(sums);
  }
  return failed;
}
