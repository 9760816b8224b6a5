// What bun:ffi cannot do with ggml: structs by value, vtables, building and flattening a graph in one
// call, log capture from foreign threads.
//
// Nothing here validates: callers in TypeScript have checked every number before it arrives.

#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml-impl.h"
#include "ggml.h"
#include "../populate.h"

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <mutex>
#include <new>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <unordered_map>
#include <unordered_set>
#include <vector>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#define API extern "C" __attribute__((visibility("default")))

// ---- logs ------------------------------------------------------------------------------------

namespace {

constexpr size_t kLogCapacity = 64 * 1024;

std::mutex  g_log_mutex;
std::string g_log;
int         g_log_echo_level = GGML_LOG_LEVEL_NONE;
int         g_log_last_level = GGML_LOG_LEVEL_NONE;

void on_log(ggml_log_level level, const char * text, void *) {
    std::lock_guard<std::mutex> lock(g_log_mutex);
    const int effective = level == GGML_LOG_LEVEL_CONT ? g_log_last_level : int(level);
    g_log_last_level = effective;
    // ggml numbers debug 1, info 2, warn 3, error 4; none (0) is printed output.
    if (g_log_echo_level > 0 && effective >= g_log_echo_level) {
        fputs(text, stderr);
        fflush(stderr);
    }
    if (effective >= GGML_LOG_LEVEL_WARN) {
        g_log.append(text);
        if (g_log.size() > kLogCapacity) {
            g_log.erase(0, g_log.size() - kLogCapacity);
        }
    }
}

// Without a callback ggml_abort prints a backtrace by starting a debugger, which takes seconds and
// writes to a terminal that is not ours.
void on_abort(const char * message) {
    fprintf(stderr, "ggml abort: %s\n", message);
    fflush(stderr);
    // _exit rather than abort(): no core dump, and no handlers of a runtime that is mid-call.
    _exit(134);
}

} // namespace

// Captures ggml's log: warnings and errors are kept for gs_take_log, and messages of at least
// echo_level (1 debug … 4 error, 0 none) also go to stderr.
API void gs_install_log(int echo_level) {
    g_log_echo_level = echo_level;
    ggml_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
}

// The address of the log callback, for llama_log_set.
API void * gs_log_callback() {
    return reinterpret_cast<void *>(on_log);
}

// Moves the captured warnings and errors into out, newest last; returns the number of bytes.
API int gs_take_log(char * out, int capacity) {
    std::lock_guard<std::mutex> lock(g_log_mutex);
    size_t start = g_log.size() > size_t(capacity) ? g_log.size() - size_t(capacity) : 0;
    const size_t size = g_log.size() - start;
    memcpy(out, g_log.data() + start, size);
    g_log.clear();
    return int(size);
}

// ---- devices and backends ----------------------------------------------------------------------

API void gs_load_backends(const char * folder) {
    ggml_backend_load_all_from_path(folder);
}

API void gs_device_memory(ggml_backend_dev_t device, double * out) {
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    out[0] = double(free);
    out[1] = double(total);
}

API int gs_backend_set_threads(ggml_backend_t backend, int threads) {
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    ggml_backend_reg_t reg = device ? ggml_backend_dev_backend_reg(device) : nullptr;
    if (reg == nullptr) {
        return 0;
    }
    auto set = reinterpret_cast<ggml_backend_set_n_threads_t>(ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"));
    if (set == nullptr) {
        return 0;
    }
    set(backend, threads);
    return 1;
}

static bool abort_requested(void * flag) {
    return static_cast<std::atomic<int> *>(flag)->load(std::memory_order_relaxed) != 0;
}

// Lets the int at flag (see io_abort_flag) stop a running graph, where the backend can be stopped.
API int gs_backend_set_abort_flag(ggml_backend_t backend, void * flag) {
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    ggml_backend_reg_t reg = device ? ggml_backend_dev_backend_reg(device) : nullptr;
    if (reg == nullptr) {
        return 0;
    }
    auto set = reinterpret_cast<ggml_backend_set_abort_callback_t>(ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_abort_callback"));
    if (set == nullptr) {
        return 0;
    }
    set(backend, abort_requested, flag);
    return 1;
}

// ---- buffers -------------------------------------------------------------------------------------

constexpr size_t kHugeBufferBytes = size_t(16) << 20;

constexpr size_t kLargeBufferBytes = size_t(256) << 20;

#ifdef MADV_HUGEPAGE
namespace {

bool file_starts_with(const std::string & path, const char * text, size_t offset) {
    char content[64] = {};
    FILE * file = fopen(path.c_str(), "r");
    if (file == nullptr) {
        return false;
    }
    const size_t size = fread(content, 1, sizeof(content) - 1, file);
    fclose(file);
    return size >= offset && strncmp(content + offset, text, strlen(text)) == 0;
}

// Whether this is a virtual machine that hands free memory back to its host: a virtio balloon (device 5)
// with free page reporting (feature 5; Linux virtio_balloon.h). Linux reports what is free in large
// pages, so a large page is memory that the host has to find again, small page by small page: 870 MB
// take 1.5 to 5 s there, and 0.3 s in small pages, which are mostly still backed.
bool host_takes_free_memory() {
    DIR * devices = opendir("/sys/bus/virtio/devices");
    if (devices == nullptr) {
        return false;
    }
    bool found = false;
    while (const dirent * entry = found ? nullptr : readdir(devices)) {
        const std::string device = std::string("/sys/bus/virtio/devices/") + entry->d_name;
        found = file_starts_with(device + "/device", "0x0005", 0) && file_starts_with(device + "/features", "1", 5);
    }
    closedir(devices);
    return found;
}

bool large_pages_pay() {
    static const bool result = !host_takes_free_memory();
    return result;
}

} // namespace
#endif

// Blocks of at least this size come from the system as a rule, smaller ones from what was freed before; glibc's
// largest threshold unless gs_keep_heap set one.
static size_t kept_heap_bytes = size_t(32) << 20;

// Makes memory of malloc's zero: whoever gets it must not read what this process had there, its addresses for one.
// Large memory is handed back to the system, which gives zeros when it is written: most of it was never taken.
static void forget(void * start, size_t size) {
#ifdef __linux__
    if (size >= kept_heap_bytes) {
        const uintptr_t page  = uintptr_t(sysconf(_SC_PAGESIZE));
        const uintptr_t begin = reinterpret_cast<uintptr_t>(start);
        const uintptr_t end   = begin + size;
        const uintptr_t from  = (begin + page - 1) / page * page;
        const uintptr_t to    = end / page * page;
        if (from < to && madvise(reinterpret_cast<void *>(from), to - from, MADV_DONTNEED) == 0) {
            memset(start, 0, from - begin);
            memset(reinterpret_cast<void *>(to), 0, end - to);
            return;
        }
    }
#endif
    populate(start, size);
    memset(start, 0, size);
}

// Lets malloc keep freed memory for blocks up to this size, instead of giving it back and taking it again page by page.
API void gs_keep_heap(double size) {
    kept_heap_bytes = size_t(size);
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, int(size));
    mallopt(M_TRIM_THRESHOLD, int(2 * size));
#else
    (void) size;
#endif
}

// Gives malloc this much memory that was written already: buffers that fit come from there, without page faults.
API void gs_warm_heap(double size) {
    gs_keep_heap(size);
#ifdef __GLIBC__
    void * block = malloc(size_t(size) - 4096);
    if (block != nullptr) {
        populate(block, size_t(size) - 4096);
        free(block);
    }
#else
    (void) size;
#endif
}

API ggml_backend_buffer_t gs_buffer_alloc(ggml_backend_buffer_type_t type, double size) {
    try {
#ifdef __GLIBC__
        // What is kept for small models is of no use to this one.
        if (size_t(size) >= kLargeBufferBytes) {
            malloc_trim(0);
        }
#endif
        ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(type, size_t(size));
        if (buffer != nullptr && ggml_backend_buffer_is_host(buffer)) {
            forget(ggml_backend_buffer_get_base(buffer), ggml_backend_buffer_get_size(buffer));
        }
#ifdef MADV_HUGEPAGE
        // Weights are written once and read for every token: large pages save most of the page faults of the
        // one and the address translation of the other. Small buffers would only be rounded up.
        if (buffer != nullptr && size_t(size) >= kHugeBufferBytes && ggml_backend_buffer_is_host(buffer) &&
            large_pages_pay()) {
            const uintptr_t page  = uintptr_t(sysconf(_SC_PAGESIZE));
            const uintptr_t base  = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
            const uintptr_t start = (base + page - 1) / page * page;
            madvise(reinterpret_cast<void *>(start), base + size_t(size) - start, MADV_HUGEPAGE);
        }
#endif
        return buffer;
    } catch (const std::bad_alloc &) {
        return nullptr;
    }
}

API void gs_buffer_clear(ggml_backend_buffer_t buffer, int value) {
    if (ggml_backend_buffer_is_host(buffer)) {
        populate(ggml_backend_buffer_get_base(buffer), ggml_backend_buffer_get_size(buffer));
    }
    ggml_backend_buffer_clear(buffer, uint8_t(value));
}

API double gs_buffer_size(ggml_backend_buffer_t buffer) {
    return double(ggml_backend_buffer_get_size(buffer));
}

API double gs_buffer_base(ggml_backend_buffer_t buffer) {
    return double(reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer)));
}

API double gs_buft_alignment(ggml_backend_buffer_type_t type) {
    return double(ggml_backend_buft_get_alignment(type));
}

// 1 when every tensor takes just its own bytes in buffers of this type.
API int gs_buft_sizes_are_plain(ggml_backend_buffer_type_t type) {
    return type->iface.get_alloc_size == nullptr ? 1 : 0;
}

// SIZE_MAX (no limit) comes back as -1: a double cannot hold it.
API double gs_buft_max_size(ggml_backend_buffer_type_t type) {
    const size_t size = ggml_backend_buft_get_max_size(type);
    return size == SIZE_MAX ? -1.0 : double(size);
}

// ---- tensor records ------------------------------------------------------------------------------

// One tensor, packed. The layout is that of rpc_tensor (ggml-rpc.cpp, all protocol versions), so that
// a record can go to or come from the wire without another pass; what differs is said per function.
#pragma pack(push, 1)
struct tensor_record {
    uint64_t id;
    uint32_t type;
    uint64_t buffer;
    uint32_t ne[GGML_MAX_DIMS];
    uint32_t nb[GGML_MAX_DIMS];
    uint32_t op;
    int32_t  op_params[GGML_MAX_OP_PARAMS / sizeof(int32_t)];
    int32_t  flags;
    uint64_t src[GGML_MAX_SRC];
    uint64_t view_src;
    uint64_t view_offs;
    uint64_t data;
    char     name[GGML_MAX_NAME];
    int32_t  use_count;
};
#pragma pack(pop)
static_assert(sizeof(tensor_record) == 296, "the packed tensor record is 296 bytes");

namespace {

// Fills a tensor from a record whose `buffer` and `data` are native addresses. Sources and view
// sources are left empty.
void tensor_from_record(const tensor_record & record, ggml_tensor & tensor) {
    memset(&tensor, 0, sizeof(tensor));
    tensor.type   = ggml_type(record.type);
    tensor.buffer = reinterpret_cast<ggml_backend_buffer_t>(record.buffer);
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        tensor.ne[i] = record.ne[i];
        tensor.nb[i] = record.nb[i];
    }
    tensor.op = ggml_op(record.op);
    memcpy(tensor.op_params, record.op_params, sizeof(tensor.op_params));
    tensor.flags     = record.flags;
    tensor.view_offs = size_t(record.view_offs);
    tensor.data      = reinterpret_cast<void *>(record.data);
    memcpy(tensor.name, record.name, sizeof(tensor.name));
    tensor.name[GGML_MAX_NAME - 1] = 0;
}

} // namespace

API void gs_tensor_set(const tensor_record * record, const void * data, double offset, double size) {
    ggml_tensor tensor;
    tensor_from_record(*record, tensor);
    ggml_backend_tensor_set(&tensor, data, size_t(offset), size_t(size));
}

API void gs_tensor_get(const tensor_record * record, void * data, double offset, double size) {
    ggml_tensor tensor;
    tensor_from_record(*record, tensor);
    ggml_backend_tensor_get(&tensor, data, size_t(offset), size_t(size));
}

// 0 when the backend's buffer cannot be filled that way.
API int gs_tensor_memset(const tensor_record * record, int value, double offset, double size) {
    ggml_tensor tensor;
    tensor_from_record(*record, tensor);
    if (tensor.buffer->iface.memset_tensor == nullptr) {
        return 0;
    }
    ggml_backend_tensor_memset(&tensor, uint8_t(value), size_t(offset), size_t(size));
    return 1;
}

API int gs_tensor_copy(const tensor_record * from, const tensor_record * to) {
    ggml_tensor source, target;
    tensor_from_record(*from, source);
    tensor_from_record(*to, target);
    if (ggml_backend_buffer_is_host(target.buffer) && ggml_backend_buffer_is_host(source.buffer)) {
        memmove(target.data, source.data, ggml_nbytes(&source));
        return 1;
    }
    return ggml_backend_buffer_copy_tensor(&source, &target) ? 1 : 0;
}

// 0 when the backend attached host-side state to the tensor, which the protocol cannot carry.
API int gs_tensor_init(const tensor_record * record) {
    ggml_tensor tensor;
    tensor_from_record(*record, tensor);
    if (tensor.buffer != nullptr && tensor.buffer->iface.init_tensor != nullptr) {
        tensor.buffer->iface.init_tensor(tensor.buffer, &tensor);
    }
    return tensor.extra == nullptr ? 1 : 0;
}

// Bytes that the tensor takes in buffers of this type; sources is an array of 10 records, id 0 absent.
API double gs_tensor_alloc_size(ggml_backend_buffer_type_t type, const tensor_record * record, const tensor_record * sources) {
    ggml_tensor tensor;
    ggml_tensor source[GGML_MAX_SRC];
    tensor_from_record(*record, tensor);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (sources[i].id != 0) {
            tensor_from_record(sources[i], source[i]);
            tensor.src[i] = &source[i];
        }
    }
    return double(ggml_backend_buft_get_alloc_size(tensor.buffer != nullptr ? tensor.buffer->buft : type, &tensor));
}

// ---- a graph built from records --------------------------------------------------------------------

namespace {

struct built_graph {
    ggml_context *            context = nullptr;
    ggml_cgraph *             graph   = nullptr;
    std::vector<ggml_tensor>  tensors;

    ~built_graph() {
        if (context != nullptr) {
            ggml_free(context);
        }
    }
};

} // namespace

// Builds a graph of node_count nodes. `nodes` holds 1-based indexes into the records. In the records
// `src` and `view_src` are 1-based record indexes (0 none), `buffer` and `data` native addresses; a
// record whose id is 0 is not used and stays empty. Returns 0 when memory ran out.
API built_graph * gs_graph_build(const uint32_t * nodes, int node_count, const tensor_record * records, int record_count) {
    built_graph * built = nullptr;
    try {
        built = new built_graph();
        built->tensors.resize(size_t(record_count));
    } catch (const std::bad_alloc &) {
        delete built;
        return nullptr;
    }
    for (int i = 0; i < record_count; i++) {
        const tensor_record & record = records[i];
        ggml_tensor & tensor = built->tensors[size_t(i)];
        if (record.id == 0) {
            memset(&tensor, 0, sizeof(tensor));
            continue;
        }
        tensor_from_record(record, tensor);
        for (int s = 0; s < GGML_MAX_SRC; s++) {
            tensor.src[s] = record.src[s] != 0 ? &built->tensors[size_t(record.src[s] - 1)] : nullptr;
        }
        tensor.view_src = record.view_src != 0 ? &built->tensors[size_t(record.view_src - 1)] : nullptr;
    }
    ggml_init_params params{};
    params.mem_size = ggml_graph_overhead_custom(size_t(node_count), false) + 1024;
    params.no_alloc = true;
    built->context  = ggml_init(params);
    if (built->context == nullptr) {
        delete built;
        return nullptr;
    }
    built->graph = ggml_new_graph_custom(built->context, size_t(node_count), false);
    built->graph->n_nodes = node_count;
    for (int i = 0; i < node_count; i++) {
        const uint32_t index = nodes[i] - 1;
        ggml_tensor * node = &built->tensors[index];
        built->graph->nodes[i] = node;
        // The same node listed twice is found again, not inserted again.
        const size_t slot = ggml_hash_find(&built->graph->visited_hash_set, node);
        if (slot != GGML_HASHSET_FULL && !ggml_bitset_get(built->graph->visited_hash_set.used, slot)) {
            ggml_hash_insert(&built->graph->visited_hash_set, node);
        }
        // Backends fuse an operation into its consumer only when this count says nobody else reads it.
        built->graph->use_counts[slot] = records[index].use_count;
    }
    return built;
}

// Index of the first node that would run and that the backend's device has no kernel for; -1 when there
// is none. Running such a node aborts the process.
API int gs_graph_unsupported(ggml_backend_t backend, const built_graph * built) {
    for (int i = 0; i < built->graph->n_nodes; i++) {
        const ggml_tensor * node = built->graph->nodes[i];
        if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0 && !ggml_backend_supports_op(backend, node)) {
            return i;
        }
    }
    return -1;
}

// Runs the graph and waits; the result is a ggml_status (0 success, 1 aborted, -1 failed, -2 no memory).
API int gs_graph_compute(ggml_backend_t backend, built_graph * built) {
    try {
        return int(ggml_backend_graph_compute(backend, built->graph));
    } catch (...) {
        return int(GGML_STATUS_FAILED);
    }
}

API void gs_graph_free(built_graph * built) {
    delete built;
}

// ---- remote devices: vtables that call into TypeScript ---------------------------------------------

// Everything a callback needs beyond its arguments travels through one shared block, whose address
// TypeScript knows: a callback argument costs more than a read from a typed array.
struct remote_exchange {
    tensor_record tensor;     // the tensor of the operation
    tensor_record other;      // the second tensor of a copy
    tensor_record sources[GGML_MAX_SRC]; // get_alloc_size: the tensor's sources
    uint64_t      remote_ptr; // alloc_buffer: the server's handle
    uint64_t      base;       // alloc_buffer: address of the buffer in the server's address space
    uint64_t      size;       // alloc_buffer, get_alloc_size: bytes
    uint64_t      free;       // get_memory
    uint64_t      total;      // get_memory
};

struct remote_callbacks {
    int  (*alloc_buffer)(int device, double size);
    void (*free_buffer)(int device);                       // exchange->remote_ptr
    void (*clear_buffer)(int device, int value);           // exchange->remote_ptr
    void (*init_tensor)(int device);
    void (*memset_tensor)(int device, int value, double offset, double size);
    void (*set_tensor)(int device, const void * data, double offset, double size, int is_weight);
    void (*get_tensor)(int device, void * data, double offset, double size, int is_async);
    int  (*copy_tensor)(int device, int source_device);
    int  (*get_alloc_size)(int device);
    int  (*get_memory)(int device);
    int  (*graph_compute)(int device, const void * graph, double uid_low, double uid_high);
    void (*synchronize)(int device);
};

namespace {

remote_callbacks g_remote{};
remote_exchange  g_exchange{};

struct remote_device {
    int         index = 0;
    int         connection = 0; // devices of one server share a connection
    std::string name;
    std::string description;
    std::string buffer_type_name;
    size_t      alignment = 0;
    size_t      max_size = 0;
    bool        sizes_are_plain = false; // see gs_buft_sizes_are_plain
    bool        has_reads = false; // asynchronous reads since the last synchronize
    ggml_backend_buffer_type buffer_type{};
    ggml_backend_device device{};
    // Answers of get_alloc_size by alloc_size_key.
    std::unordered_map<std::string, size_t> alloc_sizes;
};

struct remote_buffer {
    remote_device * device;
    uint64_t        remote_ptr;
    uint64_t        base;
};

std::vector<remote_device *> g_devices;
std::unordered_set<uint64_t> g_live_buffers;

void remote_free_buffer(ggml_backend_buffer_t buffer) {
    auto * context = static_cast<remote_buffer *>(buffer->context);
    g_exchange.remote_ptr = context->remote_ptr;
    g_remote.free_buffer(context->device->index);
    delete context;
}

bool is_remote_buffer(ggml_backend_buffer_t buffer) {
    return buffer != nullptr && buffer->iface.free_buffer == remote_free_buffer;
}

remote_buffer * remote_of(ggml_backend_buffer_t buffer) {
    return static_cast<remote_buffer *>(buffer->context);
}

// connection < 0: keep the handle whichever connection the buffer belongs to.
void record_from_tensor(const ggml_tensor * tensor, int connection, tensor_record & record) {
    record.id   = reinterpret_cast<uint64_t>(tensor);
    record.type = uint32_t(tensor->type);
    record.buffer = 0;
    record.data   = 0;
    if (is_remote_buffer(tensor->buffer)) {
        const remote_buffer * context = remote_of(tensor->buffer);
        // A handle means something only to the server that gave it.
        if (connection < 0 || context->device->connection == connection) {
            record.buffer = context->remote_ptr;
            record.data   = reinterpret_cast<uint64_t>(tensor->data);
        }
    }
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        record.ne[i] = uint32_t(tensor->ne[i]);
        record.nb[i] = uint32_t(tensor->nb[i]);
    }
    record.op = uint32_t(tensor->op);
    memcpy(record.op_params, tensor->op_params, sizeof(record.op_params));
    record.flags = tensor->flags;
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        record.src[i] = reinterpret_cast<uint64_t>(tensor->src[i]);
    }
    record.view_src  = reinterpret_cast<uint64_t>(tensor->view_src);
    record.view_offs = uint64_t(tensor->view_offs);
    // Not the whole array: what lies behind the terminator is uninitialised memory.
    memset(record.name, 0, sizeof(record.name));
    memcpy(record.name, tensor->name, strnlen(tensor->name, sizeof(record.name) - 1));
    record.use_count = 0;
}

void * remote_get_base(ggml_backend_buffer_t buffer) {
    return reinterpret_cast<void *>(remote_of(buffer)->base);
}

// Only quantized rows that are no multiple of 512 elements get padding on some backends (CUDA), which
// only the server can clear: WIRE rule of all protocol versions, ggml-rpc.cpp buffer_init_tensor.
bool may_be_padded(const ggml_tensor * tensor) {
    return ggml_is_quantized(tensor->type) && tensor->ne[0] % 512 != 0 && tensor->view_src == nullptr;
}

ggml_status remote_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor) {
    if (may_be_padded(tensor)) {
        record_from_tensor(tensor, -1, g_exchange.tensor);
        g_remote.init_tensor(remote_of(buffer)->device->index);
    }
    return GGML_STATUS_SUCCESS;
}

void remote_memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    record_from_tensor(tensor, -1, g_exchange.tensor);
    g_remote.memset_tensor(remote_of(buffer)->device->index, value, double(offset), double(size));
}

void remote_set_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    record_from_tensor(tensor, -1, g_exchange.tensor);
    g_remote.set_tensor(remote_of(buffer)->device->index, data, double(offset), double(size), buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
}

void remote_get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    record_from_tensor(tensor, -1, g_exchange.tensor);
    g_remote.get_tensor(remote_of(buffer)->device->index, data, double(offset), double(size), 0);
}

bool remote_copy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * source, ggml_tensor * target) {
    if (!is_remote_buffer(source->buffer)) {
        return false;
    }
    remote_device * from = remote_of(source->buffer)->device;
    remote_device * to   = remote_of(buffer)->device;
    if (from->connection != to->connection) {
        return false;
    }
    record_from_tensor(source, -1, g_exchange.tensor);
    record_from_tensor(target, -1, g_exchange.other);
    return g_remote.copy_tensor(to->index, from->index) != 0;
}

void remote_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    g_exchange.remote_ptr = remote_of(buffer)->remote_ptr;
    g_remote.clear_buffer(remote_of(buffer)->device->index, value);
}

remote_device * device_of(ggml_backend_buffer_type_t type) {
    return static_cast<remote_device *>(type->context);
}

const char * remote_buft_name(ggml_backend_buffer_type_t type) {
    return device_of(type)->buffer_type_name.c_str();
}

ggml_backend_buffer_t remote_alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    remote_device * device = device_of(type);
    if (!g_remote.alloc_buffer(device->index, double(size))) {
        return nullptr;
    }
    ggml_backend_buffer_i iface{};
    iface.free_buffer   = remote_free_buffer;
    iface.get_base      = remote_get_base;
    iface.init_tensor   = remote_init_tensor;
    iface.memset_tensor = remote_memset_tensor;
    iface.set_tensor    = remote_set_tensor;
    iface.get_tensor    = remote_get_tensor;
    iface.cpy_tensor    = remote_copy_tensor;
    iface.clear         = remote_clear;
    return ggml_backend_buffer_init(type, iface, new remote_buffer{device, g_exchange.remote_ptr, g_exchange.base}, size_t(g_exchange.size));
}

size_t remote_alignment(ggml_backend_buffer_type_t type) {
    return device_of(type)->alignment;
}

size_t remote_max_size(ggml_backend_buffer_type_t type) {
    return device_of(type)->max_size;
}

// What the size may depend on, as upstream's client keys its cache (6.0.0 and later): type, shape, operation
// and parameters. Sources are left out: contexts reserve with the largest ones first, and a growing KV
// cache would miss at every batch.
std::string alloc_size_key(const ggml_tensor * tensor) {
    std::string key;
    key.append(reinterpret_cast<const char *>(&tensor->type), sizeof(tensor->type));
    key.append(reinterpret_cast<const char *>(tensor->ne), sizeof(tensor->ne));
    key.append(reinterpret_cast<const char *>(&tensor->op), sizeof(tensor->op));
    key.append(reinterpret_cast<const char *>(tensor->op_params), sizeof(tensor->op_params));
    return key;
}

size_t remote_alloc_size(ggml_backend_buffer_type_t type, const ggml_tensor * tensor) {
    const size_t plain = ggml_nbytes(tensor);
    if (device_of(type)->sizes_are_plain || (!may_be_padded(tensor) && !ggml_op_alloc_size_may_expand(tensor->op))) {
        return plain;
    }
    // Asked hundreds of times for each new graph: the cache is here, not behind the callback.
    auto & known = device_of(type)->alloc_sizes;
    const std::string key = alloc_size_key(tensor);
    const auto found = known.find(key);
    if (found != known.end()) {
        return found->second;
    }
    record_from_tensor(tensor, -1, g_exchange.tensor);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (tensor->src[i] != nullptr) {
            record_from_tensor(tensor->src[i], -1, g_exchange.sources[i]);
        } else {
            memset(&g_exchange.sources[i], 0, sizeof(tensor_record));
        }
    }
    if (!g_remote.get_alloc_size(device_of(type)->index)) {
        return plain;
    }
    const size_t asked = size_t(g_exchange.size);
    return known[key] = asked < plain ? plain : asked;
}

remote_device * device_of(ggml_backend_t backend) {
    return static_cast<remote_device *>(backend->context);
}

remote_device * device_of(ggml_backend_dev_t device) {
    return static_cast<remote_device *>(device->context);
}

const char * remote_backend_name(ggml_backend_t backend) {
    return device_of(backend)->name.c_str();
}

void remote_backend_free(ggml_backend_t backend) {
    delete backend;
}

void remote_set_tensor_async(ggml_backend_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    ggml_backend_buffer_t buffer = tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
    remote_set_tensor(buffer, tensor, data, offset, size);
}

void remote_get_tensor_async(ggml_backend_t backend, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    record_from_tensor(tensor, -1, g_exchange.tensor);
    device_of(backend)->has_reads = true;
    g_remote.get_tensor(device_of(backend)->index, data, double(offset), double(size), 1);
}

void remote_synchronize(ggml_backend_t backend) {
    remote_device * device = device_of(backend);
    // Libllama synchronizes ten times a token, most often with nothing to wait for.
    if (device->has_reads) {
        device->has_reads = false;
        g_remote.synchronize(device->index);
    }
}

ggml_status remote_graph_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    const int status = g_remote.graph_compute(device_of(backend)->index, graph, double(uint32_t(graph->uid)), double(uint32_t(graph->uid >> 32)));
    return ggml_status(status);
}

const char * remote_device_name(ggml_backend_dev_t device) {
    return device_of(device)->name.c_str();
}

const char * remote_device_description(ggml_backend_dev_t device) {
    return device_of(device)->description.c_str();
}

void remote_device_memory(ggml_backend_dev_t device, size_t * free, size_t * total) {
    *free = *total = 0;
    if (g_remote.get_memory(device_of(device)->index)) {
        *free  = size_t(g_exchange.free);
        *total = size_t(g_exchange.total);
    }
}

// The protocol has no device type; libllama only offloads layers to GPU devices.
enum ggml_backend_dev_type remote_device_type(ggml_backend_dev_t) {
    return GGML_BACKEND_DEVICE_TYPE_GPU;
}

void remote_device_props(ggml_backend_dev_t device, ggml_backend_dev_props * props) {
    memset(props, 0, sizeof(*props));
    props->name        = remote_device_name(device);
    props->description = remote_device_description(device);
    props->type        = remote_device_type(device);
    remote_device_memory(device, &props->memory_free, &props->memory_total);
    props->caps.async = true;
    // No events: commands of one connection run in order, so a write can never overtake a graph that
    // still reads the old value, and synchronize has only outstanding reads to wait for.
    props->caps.events = false;
    // A mapped file's pages go straight from the mapping into the socket.
    props->caps.mmap_support = true;
}

ggml_guid_t remote_guid() {
    static ggml_guid guid = {0x67, 0x67, 0x6d, 0x6c, 0x2d, 0x72, 0x70, 0x63, 0x2d, 0x72, 0x65, 0x6d, 0x6f, 0x74, 0x65, 0x31};
    return &guid;
}

ggml_backend_t remote_device_init(ggml_backend_dev_t device, const char *) {
    auto * backend = new ggml_backend{};
    backend->guid    = remote_guid();
    backend->device  = device;
    backend->context = device_of(device);
    backend->iface.get_name         = remote_backend_name;
    backend->iface.free             = remote_backend_free;
    backend->iface.set_tensor_async = remote_set_tensor_async;
    backend->iface.get_tensor_async = remote_get_tensor_async;
    backend->iface.synchronize      = remote_synchronize;
    backend->iface.graph_compute    = remote_graph_compute;
    return backend;
}

ggml_backend_buffer_type_t remote_device_buft(ggml_backend_dev_t device) {
    return &device_of(device)->buffer_type;
}

bool remote_supports_op(ggml_backend_dev_t, const ggml_tensor * op) {
    switch (op->op) {
        // These carry host function pointers.
        case GGML_OP_MAP_CUSTOM1:
        case GGML_OP_MAP_CUSTOM2:
        case GGML_OP_MAP_CUSTOM3:
        case GGML_OP_CUSTOM:
            return false;
        default:
            // The protocol has no capability query: a server is assumed to run every operation.
            return true;
    }
}

bool remote_supports_buft(ggml_backend_dev_t device, ggml_backend_buffer_type_t type) {
    return type != nullptr && type->iface.get_name == remote_buft_name && device_of(type) == device_of(device);
}

const char * remote_reg_name(ggml_backend_reg_t) {
    // libllama puts devices of a backend of this name in front of the local ones.
    return "RPC";
}

size_t remote_reg_count(ggml_backend_reg_t) {
    return g_devices.size();
}

ggml_backend_dev_t remote_reg_get(ggml_backend_reg_t, size_t index) {
    return &g_devices[index]->device;
}

ggml_backend_reg * remote_reg() {
    static ggml_backend_reg reg = [] {
        ggml_backend_reg made{};
        made.api_version = GGML_BACKEND_API_VERSION;
        made.iface.get_name         = remote_reg_name;
        made.iface.get_device_count = remote_reg_count;
        made.iface.get_device       = remote_reg_get;
        return made;
    }();
    return &reg;
}

} // namespace

API void gs_remote_set_callbacks(void * const * callbacks) {
    static_assert(sizeof(remote_callbacks) == 12 * sizeof(void *), "the callbacks are an array of pointers");
    memcpy(&g_remote, callbacks, sizeof(g_remote));
}

API void * gs_remote_exchange() {
    return &g_exchange;
}

API int gs_remote_exchange_size() {
    return int(sizeof(g_exchange));
}

// Makes a device whose operations arrive in the callbacks under `index`. max_size < 0: no limit.
// sizes_are_plain: get_alloc_size need not be called.
API ggml_backend_dev_t gs_remote_device_new(int index, int connection, const char * name, const char * description, double alignment, double max_size, int sizes_are_plain) {
    auto * device = new remote_device();
    device->index            = index;
    device->connection       = connection;
    device->name             = name;
    device->description      = description;
    device->buffer_type_name = std::string(name) + "[" + description + "]";
    device->alignment        = size_t(alignment);
    device->max_size         = max_size < 0 ? SIZE_MAX : size_t(max_size);
    device->sizes_are_plain  = sizes_are_plain != 0;
    device->buffer_type.iface.get_name       = remote_buft_name;
    device->buffer_type.iface.alloc_buffer   = remote_alloc_buffer;
    device->buffer_type.iface.get_alignment  = remote_alignment;
    device->buffer_type.iface.get_max_size   = remote_max_size;
    device->buffer_type.iface.get_alloc_size = remote_alloc_size;
    device->buffer_type.device  = &device->device;
    device->buffer_type.context = device;
    device->device.iface.get_name        = remote_device_name;
    device->device.iface.get_description = remote_device_description;
    device->device.iface.get_memory      = remote_device_memory;
    device->device.iface.get_type        = remote_device_type;
    device->device.iface.get_props       = remote_device_props;
    device->device.iface.init_backend    = remote_device_init;
    device->device.iface.get_buffer_type = remote_device_buft;
    device->device.iface.supports_op     = remote_supports_op;
    device->device.iface.supports_buft   = remote_supports_buft;
    device->device.reg     = remote_reg();
    device->device.context = device;
    g_devices.push_back(device);
    return &device->device;
}

// Frees a device made by gs_remote_device_new; no model, buffer or backend of it may be left.
API void gs_remote_device_free(ggml_backend_dev_t device) {
    remote_device * gone = device_of(device);
    for (size_t i = 0; i < g_devices.size(); i++) {
        if (g_devices[i] == gone) {
            g_devices.erase(g_devices.begin() + long(i));
            break;
        }
    }
    delete gone;
}

// ---- flattening ------------------------------------------------------------------------------------

namespace {

struct flat_graph {
    std::vector<uint64_t>      nodes;
    std::vector<tensor_record> records;
};

flat_graph g_flat;

void flatten_tensor(const ggml_tensor * root, const ggml_cgraph * graph, int connection, std::unordered_set<const ggml_tensor *> & seen) {
    // Own stack: a deep graph must not overflow the thread's.
    struct frame {
        const ggml_tensor * tensor;
        int                 next;
    };
    static thread_local std::vector<frame> stack;
    stack.clear();
    if (root == nullptr || !seen.insert(root).second) {
        return;
    }
    stack.push_back({root, 0});
    while (!stack.empty()) {
        frame & top = stack.back();
        if (top.next <= GGML_MAX_SRC) {
            const ggml_tensor * child = top.next < GGML_MAX_SRC ? top.tensor->src[top.next] : top.tensor->view_src;
            top.next++;
            if (child != nullptr && seen.insert(child).second) {
                stack.push_back({child, 0});
            }
            continue;
        }
        g_flat.records.emplace_back();
        tensor_record & record = g_flat.records.back();
        record_from_tensor(top.tensor, connection, record);
        const size_t slot = ggml_hash_find(&graph->visited_hash_set, top.tensor);
        if (slot != GGML_HASHSET_FULL && ggml_bitset_get(graph->visited_hash_set.used, slot)) {
            record.use_count = graph->use_counts[slot];
        }
        stack.pop_back();
    }
}

} // namespace

// Flattens a graph for one connection: node ids in execution order, and a record for every tensor that
// they reach, sources before users (the order of GRAPH_COMPUTE, protocol 7.0.0). counts receives the
// number of nodes and of records; the arrays stay valid until the next call.
API void gs_graph_flatten(const ggml_cgraph * graph, int connection, uint32_t * counts) {
    static std::unordered_set<const ggml_tensor *> seen;
    seen.clear();
    g_flat.nodes.clear();
    g_flat.records.clear();
    for (int i = 0; i < graph->n_nodes; i++) {
        g_flat.nodes.push_back(reinterpret_cast<uint64_t>(graph->nodes[i]));
        flatten_tensor(graph->nodes[i], graph, connection, seen);
    }
    counts[0] = uint32_t(g_flat.nodes.size());
    counts[1] = uint32_t(g_flat.records.size());
}

API void * gs_flat_nodes() {
    return g_flat.nodes.data();
}

API void * gs_flat_records() {
    return g_flat.records.data();
}
