/* A stand-in for libcuda.so.1 that is stricter than a driver, for the real pycuda and cuda-python above it.
 *
 * Streams are lazy queues: nothing happens before a stream, an event or the context is waited for, so a missing wait
 * leaves stale bytes. Device addresses are not the host's, so only calls can reach device memory. What a driver would
 * forgive, or punish at random, is noted as `rule: detail` and read by the tests with sim_problems.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_BLOCKS = 8192, MAX_STREAMS = 1024, MAX_EVENTS = 1024, MAX_DEPTH = 64, ZONE = 256, TEXT = 1 << 16 };
enum { FRESH = 0xA5, FREED = 0xDD, EARLY = 0xEE, GUARD = 0x5C };
#define DEVICE_BASE 0x7d0000000000ull

typedef struct { int pinned, alive; unsigned flags; CUdeviceptr address; unsigned char *bytes, *known; size_t size; } Block;
typedef enum { COPY_IN, COPY_OUT, COPY_ON, FILL, RECORD, WAIT, RUN } Kind;
typedef struct Op {
  Kind kind;
  Block *from, *to;
  size_t from_at, to_at, size;
  unsigned char *seen_from, *seen_to, value; /* what the host's side held when the operation was queued */
  struct CUevent_st *event;
  uint64_t number;
  void (*run)(void *);
  void *data;
  struct CUgraphExec_st *of; /* the graph that it was launched with */
  struct Op *next;
} Op;
typedef enum { CAPTURES_NOT, CAPTURES, CAPTURE_SPOILT } Capture;
struct CUstream_st { int alive, busy; unsigned flags; Op *head, *tail; Capture capture; pthread_t by; struct CUgraph_st *into; };
struct CUgraph_st { int alive; Op *head, *tail; };
struct CUgraphExec_st { int alive; Op *head; };
struct CUevent_st { int alive, captured, timed; struct CUstream_st *stream; uint64_t recorded, done; double happened_ms; };
struct CUctx_st { int alive, primary; };

static pthread_mutex_t lock;
static pthread_cond_t idle = PTHREAD_COND_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t stack_key;
static Block blocks[MAX_BLOCKS];
static struct CUstream_st streams[MAX_STREAMS]; /* 0 is the default stream */
static struct CUevent_st events[MAX_EVENTS];
static struct CUgraph_st graphs[MAX_EVENTS];
static struct CUgraphExec_st launchables[MAX_EVENTS];
static struct CUctx_st primary = {0, 1}, others[16];
static int block_count, stream_count = 1, event_count, graph_count, launchable_count, other_count;
static int retained, may_retain = 1, integrated = 1, device_count = 1;
static uint64_t number, calls, fail_from, fail_once;
static char fail_name[64], problems[TEXT], trace[TEXT];
static CUresult fail_code, lost;
static int echo;
static CUdeviceptr next_address = DEVICE_BASE;
static size_t total_memory = 8ull << 30, used_memory;
typedef struct { int depth; CUcontext on[MAX_DEPTH]; } Stack;

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static void problem(const char *format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (strstr(problems, line) || strlen(problems) + strlen(line) + 2 > TEXT) return;
  strcat(strcat(problems, line), "\n");
  if (echo) fprintf(stderr, "%s\n", line);
}

static void thread_ended(void *pointer) {
  Stack *stack = pointer;
  pthread_mutex_lock(&lock);
  if (stack->depth) problem("context-left-pushed: a thread ended with %d on its stack", stack->depth);
  pthread_mutex_unlock(&lock);
  free(stack);
}

static void start(void) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&lock, &attributes);
  pthread_key_create(&stack_key, thread_ended);
  streams[0].alive = 1;
}

static Stack *stack(void) {
  Stack *mine = pthread_getspecific(stack_key);
  if (!mine) pthread_setspecific(stack_key, mine = calloc(1, sizeof *mine));
  return mine;
}

static CUcontext current(void) { Stack *mine = stack(); return mine->depth ? mine->on[mine->depth - 1] : NULL; }

/* Counts the call and returns the failure that was ordered for it, if any. */
static CUresult enter(const char *name) {
  pthread_once(&once, start);
  pthread_mutex_lock(&lock);
  calls++;
  if (strlen(trace) + strlen(name) + 2 < TEXT) strcat(strcat(trace, name), "\n");
  if (lost) return lost;
  int hit = fail_from && calls == fail_from;
  if (fail_name[0] && !strcmp(fail_name, name)) hit = !fail_once || !--fail_once; /* and ever after: pycuda tries twice */
  if (!hit) return CUDA_SUCCESS;
  if (fail_code != CUDA_ERROR_OUT_OF_MEMORY) lost = fail_code;
  return fail_code;
}

static CUresult leave(CUresult result) { pthread_mutex_unlock(&lock); return result; }

static CUresult enter_current(const char *name) {
  CUresult ordered = enter(name);
  if (!current()) { problem("no-context: %s with no context current on this thread", name); return CUDA_ERROR_INVALID_CONTEXT; }
  return ordered;
}

#define ENTER(name) do { CUresult o_ = enter(name); if (o_) return leave(o_); } while (0)
#define ENTER_CURRENT(name) do { CUresult o_ = enter_current(name); if (o_) return leave(o_); } while (0)
#define REFUSE(code, ...) do { problem(__VA_ARGS__); return leave(code); } while (0)

/* ---- memory ---- */

static Block *find(CUdeviceptr address, size_t *at) {
  for (int i = 0; i < block_count; i++) {
    Block *block = &blocks[i];
    if (block->address && address >= block->address && address < block->address + block->size) {
      *at = address - block->address;
      return block;
    }
  }
  return NULL;
}

static Block *find_host(const void *pointer, size_t *at) {
  const unsigned char *address = pointer;
  for (int i = 0; i < block_count; i++)
    if (blocks[i].pinned && address >= blocks[i].bytes && address < blocks[i].bytes + blocks[i].size) {
      *at = address - blocks[i].bytes;
      return &blocks[i];
    }
  return NULL;
}

static Block *make_block(size_t size, int pinned, unsigned flags) {
  if (block_count == MAX_BLOCKS) abort();
  Block *block = &blocks[block_count++];
  unsigned char *raw = aligned_alloc(4096, (size + 2 * 4096 + 4095) / 4096 * 4096);
  memset(raw, GUARD, size + 2 * 4096);
  *block = (Block){.pinned = pinned, .alive = 1, .flags = flags, .bytes = raw + 4096, .size = size};
  memset(block->bytes, FRESH, size);
  if (!pinned) { block->known = calloc(1, size ? size : 1); used_memory += size; }
  if (!pinned || flags & CU_MEMHOSTALLOC_DEVICEMAP) {
    block->address = next_address;
    next_address += (size + (2 << 20)) / (1 << 20) * (1 << 20);
  }
  return block;
}

static void check_zones(Block *block) {
  for (int i = 1; i <= ZONE; i++)
    if (block->bytes[-i] != GUARD || block->bytes[block->size + i - 1] != GUARD) {
      problem("red-zone: written outside of %zu bytes of %s memory", block->size, block->pinned ? "pinned" : "device");
      return;
    }
  if (block->alive) return;
  for (size_t i = 0; i < block->size; i++)
    if (block->bytes[i] != FREED) { problem("write-after-free: %zu bytes of pinned memory were written later", block->size); return; }
}

static int is_queued(Block *block) {
  for (int i = 0; i < stream_count; i++)
    for (Op *op = streams[i].head; op; op = op->next)
      if (op->from == block || op->to == block) return 1;
  return 0;
}

static void drop_block(Block *block, const char *name) {
  if (is_queued(block) && !lost) problem("freed-while-pending: %s of memory that a stream still uses", name);
  check_zones(block);
  block->alive = 0;
  memset(block->bytes, FREED, block->size);
  if (!block->pinned) used_memory -= block->size;
}

/* ---- streams ---- */

static unsigned char *snapshot(Block *block, size_t at, size_t size) {
  return memcpy(malloc(size ? size : 1), block->bytes + at, size);
}

static void know(Block *block, size_t at, size_t size) { if (block->known) memset(block->known + at, 1, size); }

static void require_known(Block *block, size_t at, size_t size, const char *what) {
  if (!block->known) return;
  for (size_t i = 0; i < size; i++)
    if (!block->known[at + i]) { problem("uninitialised-read: %s reads device memory that nothing was written to", what); return; }
}

static void compare(unsigned char *seen, Block *block, size_t at, size_t size, const char *what) {
  if (seen && block->alive && memcmp(seen, block->bytes + at, size))
    problem("pending-host-write: the host wrote pinned memory while %s was pending", what);
  free(seen);
}

static void perform(struct CUstream_st *stream, Op *op) {
  static const char *const names[] = {"a copy from it", "a copy into it", "a copy", "a fill", "", "", "the engine"};
  const char *name = names[op->kind];
  if ((op->from && !op->from->alive) || (op->to && !op->to->alive)) problem("use-after-free: a queued operation uses freed memory");
  if (op->from) compare(op->seen_from, op->from, op->from_at, op->size, name);
  if (op->to) compare(op->seen_to, op->to, op->to_at, op->kind == RUN ? op->to->size : op->size, name);
  if (op->from) require_known(op->from, op->from_at, op->size, op->kind == RUN ? "the engine" : "a copy");
  switch (op->kind) {
    case COPY_IN: case COPY_OUT: case COPY_ON:
      memmove(op->to->bytes + op->to_at, op->from->bytes + op->from_at, op->size);
      know(op->to, op->to_at, op->size);
      break;
    case FILL: memset(op->to->bytes + op->to_at, op->value, op->size); know(op->to, op->to_at, op->size); break;
    case RECORD:
      if (op->event->done < op->number) op->event->done = op->number, op->event->happened_ms = now_ms();
      break;
    case WAIT: break; /* advance() saw to it */
    case RUN:
      pthread_mutex_unlock(&lock);
      op->run(op->data);
      pthread_mutex_lock(&lock);
      if (op->to) know(op->to, 0, op->to->size);
      break;
  }
  (void)stream;
}

/* Performs the stream's first operation; returns 0 if there is none. */
static int advance(struct CUstream_st *stream) {
  while (stream->busy) pthread_cond_wait(&idle, &lock);
  Op *op = stream->head;
  if (!op) return 0;
  stream->busy = 1;
  if (op->kind == WAIT)
    while (op->event->done < op->number && op->event->stream != stream && advance(op->event->stream)) {}
  perform(stream, op);
  stream->head = op->next;
  if (!stream->head) stream->tail = NULL;
  stream->busy = 0;
  free(op);
  pthread_cond_broadcast(&idle);
  return 1;
}

/* Reads or spoils what the host's side holds while the operation waits, so that whoever touches it is noticed. */
static void arm(Op *op) {
  if ((op->from && !op->from->alive) || (op->to && !op->to->alive)) {
    problem("use-after-free: a graph uses memory that was freed");
    return;
  }
  if (op->from && op->from->pinned) op->seen_from = snapshot(op->from, op->from_at, op->size);
  if (op->to && op->to->pinned) {
    size_t size = op->kind == RUN ? op->to->size : op->size;
    memset(op->to->bytes + op->to_at, EARLY, size);
    op->seen_to = snapshot(op->to, op->to_at, size);
  }
}

static CUresult spoil(struct CUstream_st *stream, const char *name) {
  stream->capture = CAPTURE_SPOILT;
  problem("capture-broken: %s while a stream is captured", name);
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

/* What may wait for the GPU must not be called by a thread that captures. */
static CUresult refuse_in_capture(const char *name) {
  for (int i = 1; i < stream_count; i++)
    if (streams[i].capture && pthread_equal(streams[i].by, pthread_self())) return spoil(&streams[i], name);
  return CUDA_SUCCESS;
}
#define NOT_IN_CAPTURE(name) do { CUresult r_ = refuse_in_capture(name); if (r_) return leave(r_); } while (0)

static void drain(struct CUstream_st *stream) { while (advance(stream)) {} }
static void drain_all(void) { for (int i = 0; i < stream_count; i++) drain(&streams[i]); }

static void append(Op **head, Op **tail, const Op *op) {
  Op *made = malloc(sizeof *op);
  *made = *op;
  made->next = NULL;
  if (*tail) (*tail)->next = made; else *head = made;
  *tail = made;
}

static void queue(struct CUstream_st *stream, Op op) {
  if (stream->capture == CAPTURE_SPOILT) return;
  if (stream->capture == CAPTURES) { append(&stream->into->head, &stream->into->tail, &op); return; }
  arm(&op);
  append(&stream->head, &stream->tail, &op);
}

static struct CUstream_st *known_stream(CUstream stream, const char *name) {
  if (stream == NULL || stream == CU_STREAM_LEGACY) {
    for (int i = 1; i < stream_count; i++)
      if (streams[i].capture && !(streams[i].flags & CU_STREAM_NON_BLOCKING)) spoil(&streams[i], name);
    return &streams[0];
  }
  if (stream >= streams && stream < streams + stream_count && stream->alive) return stream;
  problem("use-after-free: %s on a stream that is not alive", name);
  return NULL;
}

static CUresult range(Block *block, size_t at, size_t size, const char *name, const char *what) {
  if (!block) { problem("unknown-address: %s of %s", name, what); return CUDA_ERROR_INVALID_VALUE; }
  if (!block->alive) { problem("use-after-free: %s of freed %s", name, what); return CUDA_ERROR_INVALID_VALUE; }
  if (at + size > block->size) {
    problem("overrun: %s of %zu bytes, %s has %zu from there", name, size, what, block->size - at);
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

static CUresult copy(const char *name, Kind kind, CUdeviceptr device, const void *host, size_t size, CUstream on) {
  size_t host_at = 0, device_at = 0;
  struct CUstream_st *stream = known_stream(on, name);
  Block *pinned = find_host(host, &host_at), *block = find(device, &device_at);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  CUresult result = range(block, device_at, size, name, "device memory");
  if (result) return result;
  if (!pinned) { problem("pageable-async: %s with host memory that is not pinned", name); return CUDA_ERROR_INVALID_VALUE; }
  if ((result = range(pinned, host_at, size, name, "pinned memory"))) return result;
  Op op = {.kind = kind, .size = size};
  if (kind == COPY_IN) {
    op.from = pinned, op.from_at = host_at, op.to = block, op.to_at = device_at;
  } else {
    op.from = block, op.from_at = device_at, op.to = pinned, op.to_at = host_at;
  }
  queue(stream, op);
  return CUDA_SUCCESS;
}

static CUresult copy_now(const char *name, Kind kind, CUdeviceptr device, void *host, size_t size) {
  size_t at = 0;
  Block *block = find(device, &at);
  CUresult result = range(block, at, size, name, "device memory");
  if (result) return result;
  drain_all();
  if (kind == COPY_IN) { memcpy(block->bytes + at, host, size); know(block, at, size); return CUDA_SUCCESS; }
  require_known(block, at, size, "a copy");
  memcpy(host, block->bytes + at, size);
  return CUDA_SUCCESS;
}

/* ---- the driver's functions ---- */

CUresult cuInit(unsigned flags) { (void)flags; ENTER("cuInit"); return leave(device_count ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE); }
CUresult cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { ENTER("cuDeviceGetCount"); *count = device_count; return leave(CUDA_SUCCESS); }
CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  ENTER("cuDeviceGet");
  *device = ordinal;
  return leave(ordinal >= 0 && ordinal < device_count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE);
}
CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  (void)device;
  ENTER("cuDeviceGetName");
  snprintf(name, length, "Simulated Orin");
  return leave(CUDA_SUCCESS);
}
CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) { (void)device; ENTER("cuDeviceTotalMem"); *bytes = total_memory; return leave(CUDA_SUCCESS); }
CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
  (void)device;
  ENTER("cuDeviceComputeCapability");
  *major = 8, *minor = 7;
  return leave(CUDA_SUCCESS);
}
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  (void)device;
  ENTER("cuDeviceGetAttribute");
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR   ? 8
           : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 7
           : attribute == CU_DEVICE_ATTRIBUTE_INTEGRATED               ? integrated
           : attribute == CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY      ? 1
           : attribute == CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING       ? 1
                                                                       : 0;
  return leave(CUDA_SUCCESS);
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  (void)device;
  ENTER("cuDevicePrimaryCtxRetain");
  if (++retained > may_retain) problem("primary-retained: %d times without being released", retained);
  primary.alive = 1;
  *context = &primary;
  return leave(CUDA_SUCCESS);
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  (void)device;
  enter("cuDevicePrimaryCtxRelease");
  if (!retained) REFUSE(CUDA_ERROR_INVALID_CONTEXT, "double-free: the primary context was not retained");
  retained--;
  return leave(lost);
}
CUresult cuCtxCreate(CUcontext *context, CUctxCreateParams *parameters, unsigned flags, CUdevice device) {
  (void)parameters, (void)flags, (void)device;
  ENTER("cuCtxCreate");
  problem("private-context: cuCtxCreate, where the primary context is to be retained");
  if (other_count == 16) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  *context = &others[other_count++];
  (*context)->alive = 1;
  Stack *mine = stack();
  mine->on[mine->depth++] = *context;
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxDestroy(CUcontext context) { enter("cuCtxDestroy"); context->alive = 0; return leave(lost); }
CUresult cuCtxPushCurrent(CUcontext context) {
  ENTER("cuCtxPushCurrent");
  Stack *mine = stack();
  if (!context->alive) REFUSE(CUDA_ERROR_INVALID_CONTEXT, "use-after-free: cuCtxPushCurrent of a destroyed context");
  if (mine->depth == MAX_DEPTH) REFUSE(CUDA_ERROR_INVALID_CONTEXT, "context-left-pushed: %d on a thread's stack", MAX_DEPTH);
  mine->on[mine->depth++] = context;
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxPopCurrent(CUcontext *context) {
  enter("cuCtxPopCurrent"); /* pops even where a failure was ordered: a lost device has a stack too */
  Stack *mine = stack();
  if (!mine->depth) REFUSE(CUDA_ERROR_INVALID_CONTEXT, "no-context: cuCtxPopCurrent on an empty stack");
  CUcontext top = mine->on[--mine->depth];
  if (context) *context = top;
  return leave(CUDA_SUCCESS);
}
CUresult cuCtxGetCurrent(CUcontext *context) { enter("cuCtxGetCurrent"); *context = current(); return leave(CUDA_SUCCESS); }
CUresult cuCtxGetDevice(CUdevice *device) { ENTER_CURRENT("cuCtxGetDevice"); *device = 0; return leave(CUDA_SUCCESS); }
CUresult cuCtxGetApiVersion(CUcontext context, unsigned *version) { (void)context; *version = 3020; return CUDA_SUCCESS; }
CUresult cuCtxSynchronize(void) {
  ENTER_CURRENT("cuCtxSynchronize");
  NOT_IN_CAPTURE("cuCtxSynchronize");
  drain_all();
  return leave(lost);
}

CUresult cuMemGetInfo(size_t *available, size_t *total) {
  ENTER_CURRENT("cuMemGetInfo");
  *total = total_memory, *available = total_memory - used_memory;
  return leave(CUDA_SUCCESS);
}
CUresult cuMemAlloc(CUdeviceptr *address, size_t size) {
  ENTER_CURRENT("cuMemAlloc");
  NOT_IN_CAPTURE("cuMemAlloc");
  if (!size) return leave(CUDA_ERROR_INVALID_VALUE);
  if (used_memory + size > total_memory) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  *address = make_block(size, 0, 0)->address;
  return leave(CUDA_SUCCESS);
}
CUresult cuMemFree(CUdeviceptr address) {
  CUresult ordered = enter_current("cuMemFree");
  size_t at;
  if (ordered == CUDA_ERROR_INVALID_CONTEXT) return leave(ordered);
  Block *block = find(address, &at);
  if (!block || at || block->pinned) REFUSE(CUDA_ERROR_INVALID_VALUE, "unknown-address: cuMemFree");
  if (!block->alive) REFUSE(CUDA_ERROR_INVALID_VALUE, "double-free: cuMemFree");
  refuse_in_capture("cuMemFree");
  drop_block(block, "cuMemFree");
  return leave(ordered);
}
CUresult cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
  ENTER_CURRENT("cuMemHostAlloc");
  NOT_IN_CAPTURE("cuMemHostAlloc");
  if (!size) return leave(CUDA_ERROR_INVALID_VALUE);
  *pointer = make_block(size, 1, flags)->bytes;
  return leave(CUDA_SUCCESS);
}
CUresult cuMemAllocHost(void **pointer, size_t size) { return cuMemHostAlloc(pointer, size, 0); }
CUresult cuMemFreeHost(void *pointer) {
  CUresult ordered = enter_current("cuMemFreeHost");
  size_t at;
  if (ordered == CUDA_ERROR_INVALID_CONTEXT) return leave(ordered);
  Block *block = find_host(pointer, &at);
  if (!block || at) REFUSE(CUDA_ERROR_INVALID_VALUE, "unknown-address: cuMemFreeHost");
  if (!block->alive) REFUSE(CUDA_ERROR_INVALID_VALUE, "double-free: cuMemFreeHost");
  refuse_in_capture("cuMemFreeHost");
  drop_block(block, "cuMemFreeHost");
  return leave(ordered);
}
CUresult cuMemHostGetDevicePointer(CUdeviceptr *address, void *pointer, unsigned flags) {
  (void)flags;
  ENTER_CURRENT("cuMemHostGetDevicePointer");
  size_t at;
  Block *block = find_host(pointer, &at);
  if (!block || !block->alive || !block->address)
    REFUSE(CUDA_ERROR_INVALID_VALUE, "not-mapped: cuMemHostGetDevicePointer of memory without DEVICEMAP");
  *address = block->address + at;
  return leave(CUDA_SUCCESS);
}
CUresult cuMemHostGetFlags(unsigned *flags, void *pointer) {
  ENTER_CURRENT("cuMemHostGetFlags");
  size_t at;
  Block *block = find_host(pointer, &at);
  if (block) *flags = block->flags;
  return leave(block ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE);
}
#define COPY_NOW(function, kind, device, host) ENTER_CURRENT(function); NOT_IN_CAPTURE(function); return leave(copy_now(function, kind, device, (void *)host, size))
CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t size) { COPY_NOW("cuMemcpyHtoD", COPY_IN, to, from); }
CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t size) { COPY_NOW("cuMemcpyDtoH", COPY_OUT, from, to); }
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
  ENTER_CURRENT("cuMemcpyHtoDAsync");
  return leave(copy("cuMemcpyHtoDAsync", COPY_IN, to, from, size, stream));
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream) {
  ENTER_CURRENT("cuMemcpyDtoHAsync");
  return leave(copy("cuMemcpyDtoHAsync", COPY_OUT, from, to, size, stream));
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream on) {
  ENTER_CURRENT("cuMemcpyDtoDAsync");
  size_t from_at = 0, to_at = 0;
  Block *source = find(from, &from_at), *target = find(to, &to_at);
  struct CUstream_st *stream = known_stream(on, "cuMemcpyDtoDAsync");
  if (!stream || range(source, from_at, size, "cuMemcpyDtoDAsync", "device memory") ||
      range(target, to_at, size, "cuMemcpyDtoDAsync", "device memory"))
    return leave(CUDA_ERROR_INVALID_VALUE);
  queue(stream, (Op){.kind = COPY_ON, .from = source, .from_at = from_at, .to = target, .to_at = to_at, .size = size});
  return leave(CUDA_SUCCESS);
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size, CUstream on) {
  ENTER_CURRENT("cuMemsetD8Async");
  size_t at = 0;
  Block *block = find(to, &at);
  struct CUstream_st *stream = known_stream(on, "cuMemsetD8Async");
  if (!stream || range(block, at, size, "cuMemsetD8Async", "device memory")) return leave(CUDA_ERROR_INVALID_VALUE);
  queue(stream, (Op){.kind = FILL, .to = block, .to_at = at, .size = size, .value = value});
  return leave(CUDA_SUCCESS);
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
  ENTER_CURRENT("cuStreamCreate");
  if (stream_count == MAX_STREAMS) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  *stream = &streams[stream_count++];
  **stream = (struct CUstream_st){.alive = 1, .flags = flags};
  return leave(CUDA_SUCCESS);
}
CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority) { (void)priority; return cuStreamCreate(stream, flags); }
CUresult cuStreamDestroy(CUstream on) {
  CUresult ordered = enter_current("cuStreamDestroy");
  if (ordered == CUDA_ERROR_INVALID_CONTEXT) return leave(ordered);
  struct CUstream_st *stream = known_stream(on, "cuStreamDestroy");
  if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (stream->head && !lost) problem("destroyed-while-pending: a stream with work that nobody waited for");
  if (stream->capture && !lost) problem("capture-left-open: a stream was destroyed while it was captured");
  stream->alive = 0;
  return leave(ordered);
}
CUresult cuStreamSynchronize(CUstream on) {
  ENTER_CURRENT("cuStreamSynchronize");
  struct CUstream_st *stream = known_stream(on, "cuStreamSynchronize");
  if (stream && stream->capture) return leave(spoil(stream, "cuStreamSynchronize"));
  if (stream) drain(stream);
  return leave(stream ? lost : CUDA_ERROR_INVALID_HANDLE);
}
CUresult cuStreamQuery(CUstream on) {
  ENTER_CURRENT("cuStreamQuery");
  struct CUstream_st *stream = known_stream(on, "cuStreamQuery");
  if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture) return leave(spoil(stream, "cuStreamQuery"));
  return leave(advance(stream) || stream->head ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS);
}
static int event_is_alive(CUevent event, const char *name) {
  if (event >= events && event < events + event_count && event->alive) return 1;
  problem("use-after-free: %s of an event that is not alive", name);
  return 0;
}
CUresult cuStreamWaitEvent(CUstream on, CUevent event, unsigned flags) {
  (void)flags;
  ENTER_CURRENT("cuStreamWaitEvent");
  struct CUstream_st *stream = known_stream(on, "cuStreamWaitEvent");
  if (!stream || !event_is_alive(event, "cuStreamWaitEvent")) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (event->recorded) queue(stream, (Op){.kind = WAIT, .event = event, .number = event->recorded});
  return leave(CUDA_SUCCESS);
}
CUresult cuEventCreate(CUevent *event, unsigned flags) {
  ENTER_CURRENT("cuEventCreate");
  if (event_count == MAX_EVENTS) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  *event = &events[event_count++];
  **event = (struct CUevent_st){.alive = 1, .timed = !(flags & CU_EVENT_DISABLE_TIMING)};
  return leave(CUDA_SUCCESS);
}
CUresult cuEventDestroy(CUevent event) {
  CUresult ordered = enter_current("cuEventDestroy");
  if (ordered == CUDA_ERROR_INVALID_CONTEXT) return leave(ordered);
  if (!event_is_alive(event, "cuEventDestroy")) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (event->done < event->recorded && !lost) problem("destroyed-while-pending: an event that nobody waited for");
  event->alive = 0;
  return leave(ordered);
}
CUresult cuEventRecord(CUevent event, CUstream on) {
  ENTER_CURRENT("cuEventRecord");
  struct CUstream_st *stream = known_stream(on, "cuEventRecord");
  if (!stream || !event_is_alive(event, "cuEventRecord")) return leave(CUDA_ERROR_INVALID_HANDLE);
  event->captured = stream->capture != CAPTURES_NOT;
  if (event->captured) return leave(CUDA_SUCCESS);
  event->stream = stream, event->recorded = ++number;
  queue(stream, (Op){.kind = RECORD, .event = event, .number = number});
  return leave(CUDA_SUCCESS);
}
CUresult cuEventSynchronize(CUevent event) {
  ENTER_CURRENT("cuEventSynchronize");
  if (!event_is_alive(event, "cuEventSynchronize")) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (event->captured) REFUSE(CUDA_ERROR_CAPTURED_EVENT, "captured-event: cuEventSynchronize of an event that is part of a graph");
  while (event->done < event->recorded && advance(event->stream)) {}
  return leave(lost);
}
CUresult cuEventQuery(CUevent event) {
  ENTER_CURRENT("cuEventQuery");
  if (!event_is_alive(event, "cuEventQuery")) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (event->done >= event->recorded) return leave(CUDA_SUCCESS);
  advance(event->stream);
  return leave(CUDA_ERROR_NOT_READY);
}
CUresult cuEventElapsedTime(float *milliseconds, CUevent from, CUevent to) {
  ENTER_CURRENT("cuEventElapsedTime");
  for (int i = 0; i < 2; i++) {
    CUevent event = i ? to : from;
    if (!event_is_alive(event, "cuEventElapsedTime") || !event->timed || !event->recorded)
      return leave(CUDA_ERROR_INVALID_HANDLE);
    if (event->captured) REFUSE(CUDA_ERROR_CAPTURED_EVENT, "captured-event: cuEventElapsedTime of an event that is part of a graph");
    if (event->done < event->recorded) REFUSE(CUDA_ERROR_NOT_READY, "not-awaited: cuEventElapsedTime of an event to come");
  }
  *milliseconds = (float)(to->happened_ms - from->happened_ms);
  return leave(CUDA_SUCCESS);
}

/* ---- graphs ---- */

CUresult cuStreamBeginCapture(CUstream on, CUstreamCaptureMode mode) { /* a macro of cuda.h's names its second version */
  ENTER_CURRENT("cuStreamBeginCapture");
  if (on == NULL) REFUSE(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "default-stream: it cannot be captured");
  struct CUstream_st *stream = known_stream(on, "cuStreamBeginCapture");
  if (!stream) return leave(CUDA_ERROR_INVALID_HANDLE);
  if (stream->capture) REFUSE(CUDA_ERROR_ILLEGAL_STATE, "capture-left-open: a stream is captured that is captured already");
  if (mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    problem("capture-mode: %s", mode ? "relaxed, which lets calls pass that wait for the GPU"
                                      : "global, in which other threads' calls fail or break it");
  if (graph_count == MAX_EVENTS) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  stream->capture = CAPTURES, stream->by = pthread_self(), stream->into = &graphs[graph_count++];
  *stream->into = (struct CUgraph_st){.alive = 1};
  return leave(CUDA_SUCCESS);
}
CUresult cuStreamEndCapture(CUstream on, CUgraph *graph) {
  CUresult ordered = enter_current("cuStreamEndCapture");
  *graph = NULL;
  if (ordered == CUDA_ERROR_INVALID_CONTEXT) return leave(ordered);
  struct CUstream_st *stream = known_stream(on, "cuStreamEndCapture");
  if (!stream || !stream->capture) return leave(CUDA_ERROR_ILLEGAL_STATE);
  if (!pthread_equal(stream->by, pthread_self()))
    REFUSE(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "capture-thread: ended in another thread than it was begun in");
  int spoilt = stream->capture == CAPTURE_SPOILT;
  stream->capture = CAPTURES_NOT;
  stream->into->alive = !ordered && !spoilt;
  if (!ordered && !spoilt) *graph = stream->into;
  return leave(ordered ? ordered : spoilt ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
}
static int graph_is_alive(CUgraph graph, const char *name) {
  if (graph >= graphs && graph < graphs + graph_count && graph->alive) return 1;
  problem("use-after-free: %s of a graph that is not alive", name);
  return 0;
}
static int launchable_is_alive(CUgraphExec one, const char *name) {
  if (one >= launchables && one < launchables + launchable_count && one->alive) return 1;
  problem("use-after-free: %s of an executable graph that is not alive", name);
  return 0;
}
CUresult cuGraphInstantiate(CUgraphExec *made, CUgraph graph, unsigned long long flags) { /* WithFlags by cuda.h's macro */
  (void)flags;
  ENTER_CURRENT("cuGraphInstantiate");
  if (!graph_is_alive(graph, "cuGraphInstantiate")) return leave(CUDA_ERROR_INVALID_VALUE);
  if (!graph->head) problem("empty-graph: nothing was captured");
  if (launchable_count == MAX_EVENTS) return leave(CUDA_ERROR_OUT_OF_MEMORY);
  *made = &launchables[launchable_count++];
  **made = (struct CUgraphExec_st){.alive = 1};
  Op *tail = NULL;
  for (Op *op = graph->head; op; op = op->next) append(&(*made)->head, &tail, op);
  return leave(CUDA_SUCCESS);
}
CUresult cuGraphLaunch(CUgraphExec one, CUstream on) {
  ENTER_CURRENT("cuGraphLaunch");
  if (on == NULL) REFUSE(CUDA_ERROR_INVALID_HANDLE, "default-stream: a graph was launched on it");
  struct CUstream_st *stream = known_stream(on, "cuGraphLaunch");
  if (!stream || !launchable_is_alive(one, "cuGraphLaunch")) return leave(CUDA_ERROR_INVALID_VALUE);
  if (stream->capture) return leave(spoil(stream, "cuGraphLaunch"));
  for (Op *op = one->head; op; op = op->next) {
    Op launched = *op;
    launched.of = one;
    queue(stream, launched);
  }
  return leave(CUDA_SUCCESS);
}
CUresult cuGraphExecDestroy(CUgraphExec one) {
  CUresult ordered = enter_current("cuGraphExecDestroy");
  if (ordered == CUDA_ERROR_INVALID_CONTEXT) return leave(ordered);
  if (!launchable_is_alive(one, "cuGraphExecDestroy")) return leave(CUDA_ERROR_INVALID_VALUE);
  for (int i = 0; i < stream_count; i++)
    for (Op *op = streams[i].head; op; op = op->next)
      if (op->of == one && !lost) problem("destroyed-while-pending: a graph that nobody waited for");
  one->alive = 0;
  return leave(ordered);
}
CUresult cuGraphDestroy(CUgraph graph) {
  CUresult ordered = enter_current("cuGraphDestroy");
  if (ordered == CUDA_ERROR_INVALID_CONTEXT) return leave(ordered);
  if (!graph_is_alive(graph, "cuGraphDestroy")) return leave(CUDA_ERROR_INVALID_VALUE);
  graph->alive = 0;
  return leave(ordered);
}

CUresult cuGetErrorName(CUresult code, const char **name) {
  *name = code == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : code ? "CUDA_ERROR" : "CUDA_SUCCESS";
  return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult code, const char **text) { return cuGetErrorName(code, text); }

CUresult cuGetProcAddress(const char *symbol, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
  (void)version, (void)flags;
  void *self = dlopen("libcuda.so.1", RTLD_NOLOAD | RTLD_LAZY);
  static const char *const endings[] = {"_v4", "_v3", "_v2", "WithFlags", ""};
  *function = NULL;
  for (int i = 0; i < 5 && !*function; i++) {
    char name[160];
    snprintf(name, sizeof name, "%s%s", symbol, endings[i]);
    *function = dlsym(self, name);
  }
  if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult sim_unsupported(const char *name) {
  pthread_once(&once, start);
  pthread_mutex_lock(&lock);
  problem("unsupported: %s is not simulated", name);
  return leave(CUDA_ERROR_NOT_SUPPORTED);
}

/* ---- for the fake TensorRT ---- */

/* Queues run(data), which reads all of the memory at `from` and writes all of that at `to`. */
CUresult sim_launch(CUstream on, CUdeviceptr from, CUdeviceptr to, void (*run)(void *), void *data) {
  ENTER_CURRENT("launch");
  size_t from_at = 0, to_at = 0;
  if (on == NULL) REFUSE(CUDA_ERROR_INVALID_HANDLE, "default-stream: the engine was enqueued on it");
  struct CUstream_st *stream = known_stream(on, "launch");
  Block *source = find(from, &from_at), *target = find(to, &to_at);
  if (!stream || range(source, from_at, 1, "launch", "device memory") || range(target, to_at, 1, "launch", "device memory"))
    return leave(CUDA_ERROR_INVALID_VALUE);
  Op op = {.kind = RUN, .from = source, .from_at = from_at, .size = source->size - from_at, .to = target, .run = run, .data = data};
  queue(stream, op);
  return leave(CUDA_SUCCESS);
}
/* Size of the memory that `address` begins, 0 if it begins none, -1 if that was freed. */
long long sim_size(CUdeviceptr address) {
  pthread_mutex_lock(&lock);
  size_t at = 0;
  Block *block = find(address, &at);
  long long size = !block || at ? 0 : block->alive ? (long long)block->size : -1;
  pthread_mutex_unlock(&lock);
  return size;
}
void *sim_bytes(CUdeviceptr address) { size_t at = 0; Block *block = find(address, &at); return block ? block->bytes + at : NULL; }
void sim_problem(const char *text) { pthread_mutex_lock(&lock); problem("%s", text); pthread_mutex_unlock(&lock); }
/* Whether `on` is captured; `refuse` breaks the capture, as an engine does that cannot be in a graph. */
int sim_is_capturing(CUstream on, int refuse) {
  pthread_mutex_lock(&lock);
  int found = on >= streams && on < streams + stream_count && on->capture;
  if (found && refuse) on->capture = CAPTURE_SPOILT;
  pthread_mutex_unlock(&lock);
  return found;
}
/* Whether a graph that can still be launched calls `run`. */
int sim_is_in_graph(void (*run)(void *)) {
  pthread_mutex_lock(&lock);
  int found = 0;
  for (int i = 0; i < launchable_count; i++)
    for (Op *op = launchables[i].alive ? launchables[i].head : NULL; op; op = op->next) found |= op->run == run;
  pthread_mutex_unlock(&lock);
  return found;
}
int sim_has_context(void) { pthread_once(&once, start); return current() != NULL; }

/* ---- for the tests ---- */

void sim_configure(int devices, int shares_memory, unsigned long long memory) {
  device_count = devices, integrated = shares_memory, total_memory = memory;
}
/* Orders `code` for the `count`th call of function `name` and those after it, or for the `count`th of any (""), which
 * loses the device if it is not out of memory. A count of 0 takes the order back. */
void sim_fail(const char *name, unsigned long long count, int code) {
  pthread_once(&once, start);
  pthread_mutex_lock(&lock);
  snprintf(fail_name, sizeof fail_name, "%s", name);
  fail_once = count, fail_from = count && !name[0] ? calls + count : 0, fail_code = code;
  if (!count) fail_name[0] = 0;
  pthread_mutex_unlock(&lock);
}
unsigned long long sim_calls(void) { return calls; }
const char *sim_trace(void) { return trace; }
int sim_is_lost(void) { return lost; }
void sim_thread_ends(void) {
  pthread_once(&once, start);
  pthread_mutex_lock(&lock);
  if (stack()->depth) problem("context-left-pushed: %d on a thread's stack", stack()->depth);
  pthread_mutex_unlock(&lock);
}
/* Another library is about to retain the primary context, as each does once. */
void sim_expect_retain(void) { may_retain++; }
void sim_echo(void) { echo = 1; }
/* Looks for what was left behind and returns all problems, a line each. */
const char *sim_problems(void) {
  pthread_once(&once, start);
  pthread_mutex_lock(&lock);
  int memory = 0, pinned = 0, live_streams = 0, live_events = 0, live_graphs = 0, captured = 0, queued = 0;
  for (int i = 0; i < block_count; i++) {
    check_zones(&blocks[i]);
    if (blocks[i].alive) *(blocks[i].pinned ? &pinned : &memory) += 1;
  }
  for (int i = 1; i < stream_count; i++) live_streams += streams[i].alive;
  for (int i = 0; i < event_count; i++) live_events += events[i].alive;
  for (int i = 0; i < stream_count; i++) queued += streams[i].head != NULL;
  if (memory) problem("leak: %d blocks of device memory", memory);
  if (pinned) problem("leak: %d blocks of pinned memory", pinned);
  if (live_streams) problem("leak: %d streams", live_streams);
  if (live_events) problem("leak: %d events", live_events);
  for (int i = 0; i < graph_count; i++) live_graphs += graphs[i].alive;
  for (int i = 0; i < launchable_count; i++) live_graphs += launchables[i].alive;
  for (int i = 1; i < stream_count; i++) captured += streams[i].capture != CAPTURES_NOT;
  if (captured) problem("capture-left-open: %d streams", captured);
  if (live_graphs && !captured) problem("leak: %d graphs", live_graphs);
  if (queued && !lost) problem("never-waited-for: work on %d streams", queued);
  if (stack()->depth) problem("context-left-pushed: %d on this thread's stack", stack()->depth);
  pthread_mutex_unlock(&lock);
  return problems;
}
/* Forgets everything but the primary context, which a process keeps. */
void sim_reset(void) {
  pthread_once(&once, start);
  pthread_mutex_lock(&lock);
  for (int i = 0; i < block_count; i++) { free(blocks[i].bytes - 4096); free(blocks[i].known); }
  block_count = event_count = graph_count = launchable_count = 0, stream_count = 1;
  memset(streams, 0, sizeof streams);
  streams[0].alive = 1;
  used_memory = 0, lost = 0, fail_once = fail_from = 0, fail_name[0] = 0, problems[0] = trace[0] = 0;
  stack()->depth = 0;
  device_count = integrated = 1, total_memory = 8ull << 30;
  pthread_mutex_unlock(&lock);
}
