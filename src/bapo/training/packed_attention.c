/* Attention of packs that stand end to end in one line, forward and backward, in float32.

   A pack begins at position 0. Where a position does not follow the one before it, a run begins: it
   sees as many of its pack's first tokens as its first position says, and itself, causally. So runs
   are completions that stand behind a prompt of that length; the first one runs on from the prompt.

   A thread does one key head of one pack, so results do not depend on how many there are. Scores are
   made for a block of queries of one run at a time, against the prompt and against the run itself,
   and again in the backward pass. `wide` is the size of a head, `room` a number of keys, both rounded
   up to whole vectors; what stands in the rest of a row of scores is hidden. */

#include <stdlib.h>

#if defined(__AVX512F__)
#define WIDTH 16
#define ROWS 8
#elif defined(__AVX__)
#define WIDTH 8
#define ROWS 4
#else
#define WIDTH 4
#define ROWS 4
#endif
#define BLOCK 64 /* queries at a time */

typedef float lanes
    __attribute__((vector_size(WIDTH * sizeof(float)), aligned(sizeof(float)), may_alias));

static inline int64_t whole(int64_t count) { return (count + WIDTH - 1) / WIDTH * WIDTH; }

/* out = left right, or is added to, for so many rows and vectors. Number k of row i of `left` stands
   at i * row + k * step, so that a transposed matrix is read where it lies. */
static inline __attribute__((always_inline)) void
tile(const int rows, const int vectors, int64_t depth, const float *left, int64_t row, int64_t step,
     const float *right, int64_t right_row, float *out, int64_t out_row, int adds) {
  lanes sums[ROWS][2], part[2];
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++)
      sums[i][v] = adds ? *(const lanes *)(out + i * out_row + v * WIDTH) : (lanes){0};
  for (int64_t k = 0; k < depth; k++) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) part[v] = *(const lanes *)(right + k * right_row + v * WIDTH);
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
      for (int v = 0; v < vectors; v++) sums[i][v] += left[i * row + k * step] * part[v];
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) *(lanes *)(out + i * out_row + v * WIDTH) = sums[i][v];
}

/* out = left right, or is added to: `rows` by `columns`, which are whole vectors. */
static void product(int64_t rows, int64_t columns, int64_t depth, const float *left, int64_t row,
                    int64_t step, const float *right, int64_t right_row, float *out,
                    int64_t out_row, int adds) {
  for (int64_t j = 0; j < columns; j += 2 * WIDTH) {
    const float *from = right + j;
    float *to = out + j;
    int64_t i = 0;
#define TILES(count, vectors)                                                                      \
  for (; i + count <= rows; i += count)                                                            \
    tile(count, vectors, depth, left + i * row, row, step, from, right_row, to + i * out_row,      \
         out_row, adds)
    if (columns - j >= 2 * WIDTH) {
      TILES(ROWS, 2);
      TILES(4, 2);
      TILES(1, 2);
    } else {
      TILES(ROWS, 1);
      TILES(4, 1);
      TILES(1, 1);
    }
#undef TILES
  }
}

/* What is attended; the fields are explained in packed_attention.py. */
struct line {
  int64_t tokens, packs, longest, heads, key_heads, size;
  const int64_t *starts, *positions;
  const float *queries, *keys, *values;
  float scale;
};

/* Queries `first` to `first + count` of the run that begins at `start`, tokens of a pack. They see
   the first `told` tokens and `own` of the run; their scores are rows of `row`, own ones at `at`. */
struct block {
  int64_t start, first, count, told, own, at, row;
};

static int next_block(const int64_t *positions, int64_t length, struct block *b) {
  int64_t first = b->first + b->count;
  if (first >= length) return 0;
  if (first == 0 || positions[first] != positions[first - 1] + 1) b->start = first;
  b->first = first;
  b->told = positions[b->start] < b->start ? positions[b->start] : b->start;
  for (b->count = 1; b->count < BLOCK && first + b->count < length; b->count++)
    if (positions[first + b->count] != positions[first + b->count - 1] + 1) break;
  b->own = first + b->count - b->start;
  b->at = whole(b->told);
  b->row = b->at + whole(b->own);
  return 1;
}

/* Products of the block's rows with all keys that any of them sees. `turned` is (size, room). */
static void scores_of(const struct block *b, int64_t size, const float *rows, int64_t row,
                      const float *turned, int64_t room, float *out) {
  product(b->count, b->at, size, rows, row, 1, turned, room, out, b->row, 0);
  product(b->count, b->row - b->at, size, rows, row, 1, turned + b->start, room, out + b->at,
          b->row, 0);
}

/* What does not belong to token i of the block becomes `with`. */
static inline void hide(const struct block *b, int64_t i, float *scores, float with) {
  for (int64_t j = b->told; j < b->at; j++) scores[j] = with;
  for (int64_t j = b->at + b->first + i - b->start + 1; j < b->row; j++) scores[j] = with;
}

/* Sums over the keys of shares times what stands at each of them, `(length, wide)`. */
static void sums_of(const struct block *b, int64_t wide, const float *shares, const float *held,
                    float *out) {
  product(b->count, wide, b->told, shares, b->row, 1, held, wide, out, wide, 0);
  product(b->count, wide, b->own, shares + b->at, b->row, 1, held + b->start * wide, wide, out, wide,
          1);
}

/* Adds to each key its shares times the block's rows, `(count, wide)`. */
static void spread(const struct block *b, int64_t wide, const float *shares, const float *rows,
                   float *out) {
  product(b->told, wide, b->count, shares, 1, b->row, rows, wide, out, wide, 1);
  product(b->own, wide, b->count, shares + b->at, 1, b->row, rows, wide, out + b->start * wide, wide,
          1);
}

/* Rows of `size` numbers, `step` apart, as rows of `wide`. */
static void gather(int64_t rows, int64_t size, const float *from, int64_t step, float *to) {
  int64_t wide = whole(size);
  for (int64_t i = 0; i < rows; i++) {
    memcpy(to + i * wide, from + i * step, size * sizeof(float));
    for (int64_t j = size; j < wide; j++) to[i * wide + j] = 0.0f;
  }
}

/* The same transposed and multiplied, `(size, room)`. */
static void turn(int64_t rows, int64_t size, const float *from, int64_t step, float scale, float *to,
                 int64_t room) {
  for (int64_t i = 0; i < size; i++) {
    for (int64_t j = 0; j < rows; j++) to[i * room + j] = from[j * step + i] * scale;
    for (int64_t j = rows; j < room; j++) to[i * room + j] = 0.0f;
  }
}

/* Scores become shares but for their sum; returns that and the logarithm of all. */
static inline float soften(const struct block *b, int64_t i, float *scores, float *logarithm) {
  float most[WIDTH], total[WIDTH] = {0}, largest = -INFINITY, sum = 0.0f;
  hide(b, i, scores, -INFINITY);
  for (int u = 0; u < WIDTH; u++) most[u] = -INFINITY;
  for (int64_t j = 0; j < b->row; j += WIDTH)
    for (int u = 0; u < WIDTH; u++) most[u] = scores[j + u] > most[u] ? scores[j + u] : most[u];
  for (int u = 0; u < WIDTH; u++) largest = most[u] > largest ? most[u] : largest;
  for (int64_t j = 0; j < b->row; j += WIDTH)
    for (int u = 0; u < WIDTH; u++) scores[j + u] = exponential(scores[j + u] - largest);
  hide(b, i, scores, 0.0f);
  for (int64_t j = 0; j < b->row; j += WIDTH)
    for (int u = 0; u < WIDTH; u++) total[u] += scores[j + u];
  for (int u = 0; u < WIDTH; u++) sum += total[u];
  *logarithm = largest + logf(sum);
  return sum;
}

static void forward(const struct line *line, int64_t pack, int64_t key_head, float *out,
                    float *logarithms, float *scratch) {
  int64_t begin = line->starts[pack], length = line->starts[pack + 1] - begin, size = line->size;
  int64_t wide = whole(size), room = whole(length) + WIDTH, group = line->heads / line->key_heads;
  int64_t step = line->heads * size, key_step = line->key_heads * size;
  int64_t place = begin * key_step + key_head * size;
  float *turned = scratch, *values = turned + wide * room, *sums = values + wide * length;
  float *scores = sums + BLOCK * wide, totals[BLOCK];
  turn(length, size, line->keys + place, key_step, line->scale, turned, room);
  gather(length, size, line->values + place, key_step, values);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; head++) {
    const float *queries = line->queries + begin * step + head * size;
    float *to = out + begin * step + head * size, *logs = logarithms + head * line->tokens + begin;
    for (struct block b = {0}; next_block(line->positions + begin, length, &b);) {
      scores_of(&b, size, queries + b.first * step, step, turned, room, scores);
      for (int64_t i = 0; i < b.count; i++)
        totals[i] = soften(&b, i, scores + i * b.row, logs + b.first + i);
      sums_of(&b, wide, scores, values, sums);
      for (int64_t i = 0; i < b.count; i++)
        for (int64_t d = 0; d < size; d++)
          to[(b.first + i) * step + d] = sums[i * wide + d] / totals[i];
    }
  }
}

/* What the backward pass reads and writes besides. */
struct slopes {
  const float *out, *logarithms, *of_out;
  float *queries, *keys, *values;
};

/* From scores and products of slopes with values to shares and the slopes of scores. */
static inline void soften_back(const struct block *b, int64_t i, float logarithm, float mean,
                               float scale, float *scores, float *slopes) {
  for (int64_t j = 0; j < b->row; j++) scores[j] = exponential(scores[j] - logarithm);
  hide(b, i, scores, 0.0f);
  for (int64_t j = 0; j < b->row; j++) slopes[j] = scores[j] * (slopes[j] - mean) * scale;
}

static void backward(const struct line *line, int64_t pack, int64_t key_head,
                     const struct slopes *slopes, float *scratch) {
  int64_t begin = line->starts[pack], length = line->starts[pack + 1] - begin, size = line->size;
  int64_t wide = whole(size), room = whole(length) + WIDTH, group = line->heads / line->key_heads;
  int64_t step = line->heads * size, key_step = line->key_heads * size;
  int64_t place = begin * key_step + key_head * size, all = wide * length;
  float *turned = scratch, *turned_values = turned + wide * room;
  float *keys = turned_values + wide * room, *queries = keys + all, *of_out = queries + all;
  float *to_keys = of_out + all, *to_values = to_keys + all, *sums = to_values + all;
  float *scores = sums + BLOCK * wide, *of_scores = scores + BLOCK * (room + WIDTH);
  turn(length, size, line->keys + place, key_step, line->scale, turned, room);
  turn(length, size, line->values + place, key_step, 1.0f, turned_values, room);
  gather(length, size, line->keys + place, key_step, keys);
  memset(to_keys, 0, 2 * all * sizeof(float));
  for (int64_t head = key_head * group; head < (key_head + 1) * group; head++) {
    int64_t mine = begin * step + head * size;
    const float *logs = slopes->logarithms + head * line->tokens + begin;
    gather(length, size, line->queries + mine, step, queries);
    gather(length, size, slopes->of_out + mine, step, of_out);
    for (struct block b = {0}; next_block(line->positions + begin, length, &b);) {
      const float *asked = queries + b.first * wide, *given = of_out + b.first * wide;
      scores_of(&b, size, asked, wide, turned, room, scores);
      scores_of(&b, size, given, wide, turned_values, room, of_scores);
      for (int64_t i = 0; i < b.count; i++) {
        const float *out = slopes->out + mine + (b.first + i) * step;
        float mean = 0.0f;
        for (int64_t d = 0; d < size; d++) mean += out[d] * given[i * wide + d];
        soften_back(&b, i, logs[b.first + i], mean, line->scale, scores + i * b.row,
                    of_scores + i * b.row);
      }
      sums_of(&b, wide, of_scores, keys, sums);
      for (int64_t i = 0; i < b.count; i++)
        memcpy(slopes->queries + mine + (b.first + i) * step, sums + i * wide, size * sizeof(float));
      spread(&b, wide, of_scores, asked, to_keys);
      spread(&b, wide, scores, given, to_values);
    }
  }
  for (int64_t i = 0; i < length; i++) {
    memcpy(slopes->keys + place + i * key_step, to_keys + i * wide, size * sizeof(float));
    memcpy(slopes->values + place + i * key_step, to_values + i * wide, size * sizeof(float));
  }
}

/* Both return 0, or 1 where there is no memory. */
static int of_every_pack(const struct line *line, float *out, float *logarithms,
                         const struct slopes *slopes, int threads) {
  int64_t wide = whole(line->size), room = whole(line->longest) + WIDTH;
  int64_t numbers = 2 * wide * room + 5 * wide * line->longest + BLOCK * (wide + 2 * room + 2 * WIDTH);
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
    float *scratch = malloc(numbers * sizeof(float));
    if (!scratch) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp for schedule(dynamic)
    for (int64_t one = 0; one < line->packs * line->key_heads; one++) {
      int64_t pack = one / line->key_heads, key_head = one % line->key_heads;
      if (!scratch) continue;
      if (slopes) backward(line, pack, key_head, slopes, scratch);
      else forward(line, pack, key_head, out, logarithms, scratch);
    }
    free(scratch);
  }
  return failed;
}

/* out: (tokens, heads, size); logarithms: (heads, tokens), of the sums of exponentials. */
int attend_packs(const struct line *line, float *out, float *logarithms, int threads) {
  return of_every_pack(line, out, logarithms, NULL, threads);
}

int attend_packs_backward(const struct line *line, const struct slopes *slopes, int threads) {
  return of_every_pack(line, NULL, NULL, slopes, threads);
}
