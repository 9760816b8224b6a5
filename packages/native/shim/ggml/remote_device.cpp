// Devices that live elsewhere: ggml's vtables, which call into TypeScript.

#include "remote_device.h"
#include "api.h"
#include "bf16.h"
#include "found_rows.h"
#include "remote_callbacks.h"
#include "remote_group.h"
#include "views.h"
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "ggml-impl.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

remote_callbacks g_remote{};
remote_exchange  g_exchange{};

namespace {

struct remote_device {
    int         index = 0;
    remote_server server;
    std::string name;
    std::string description;
    std::string buffer_type_name;
    size_t      alignment = 0;
    size_t      max_size = 0;
    bool        sizes_are_plain = false; // see gs_buft_sizes_are_plain
    ggml_backend_buffer_type buffer_type{};
    ggml_backend_device device{};
    // Answers of get_alloc_size by alloc_size_key.
    std::unordered_map<std::string, size_t> alloc_sizes;
};

struct remote_buffer {
    remote_device * device;
    uint64_t        remote_ptr; // 0: the server could not give it, see g_dead_buffers
    uint64_t        base;
    // What was placed here before anybody said what the buffer is for: of one for weights, those that are to come.
    std::vector<ggml_tensor *> placed;
};

// Where a server has no memory libllama is told, and gives up the load; but ggml's meta device gives up the process. While that
// computes, it gets a buffer that stands for nothing, and whoever asked it for a load or a batch has to look for the failure.
bool g_dead_buffers = false;
int  g_dead_buffer_count = 0;

// What ggml takes for the address of such a buffer: no page of any process.
constexpr uint64_t DEAD_BASE = 0x1000;

std::vector<remote_device *> g_devices;

std::vector<ggml_backend_buffer_t> g_buffers;

struct coming_weight {
    ggml_tensor *   tensor;
    remote_device * device;
};

std::vector<coming_weight> g_coming;

void remote_free_buffer(ggml_backend_buffer_t buffer) {
    auto * context = static_cast<remote_buffer *>(buffer->context);
    g_buffers.erase(std::remove(g_buffers.begin(), g_buffers.end(), buffer), g_buffers.end());
    if (context->remote_ptr != 0) {
        g_exchange.remote_ptr = context->remote_ptr;
        g_remote.free_buffer(context->device->index);
    } else {
        g_dead_buffer_count--;
    }
    delete context;
}

bool is_remote_buffer(ggml_backend_buffer_t buffer) {
    return buffer != nullptr && buffer->iface.free_buffer == remote_free_buffer;
}

remote_buffer * remote_of(ggml_backend_buffer_t buffer) {
    return static_cast<remote_buffer *>(buffer->context);
}

bool is_dead(ggml_backend_buffer_t buffer) {
    return remote_of(buffer)->remote_ptr == 0;
}

} // namespace

remote_server & server_of(ggml_backend_dev_t device) {
    return static_cast<remote_device *>(device->context)->server;
}

void record_from_tensor(const ggml_tensor * tensor, const remote_server & server, tensor_record & record) {
    record.id   = reinterpret_cast<uint64_t>(tensor);
    record.type = uint32_t(tensor->type);
    record.buffer = 0;
    record.data   = 0;
    if (is_remote_buffer(tensor->buffer)) {
        const remote_buffer * context = remote_of(tensor->buffer);
        // A handle means something only to the server that gave it.
        if (context->device->server.connection == server.connection) {
            record.buffer = context->remote_ptr;
            record.data   = reinterpret_cast<uint64_t>(tensor->data);
        }
    }
    for (int i = 0; i < GGML_MAX_DIMS; i++) {
        record.ne[i] = uint32_t(tensor->ne[i]);
        record.nb[i] = uint32_t(tensor->nb[i]);
    }
    memcpy(record.op_params, tensor->op_params, sizeof(record.op_params));
    server.dialect.translate(tensor, record);
    record.flags = tensor->flags;
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        record.src[i] = reinterpret_cast<uint64_t>(tensor->src[i]);
    }
    record.view_src  = reinterpret_cast<uint64_t>(tensor->view_src);
    record.view_offs = uint64_t(tensor->view_offs);
    if (record.data != 0 && ggml_is_empty(tensor)) {
        // Where tensors are cut, views of what a device has no part of begin where the whole would have it: outside of the buffer,
        // on which upstream's server ends itself.
        record.data      = remote_of(tensor->buffer)->base;
        record.view_src  = 0;
        record.view_offs = 0;
    }
    // Not the whole array: what lies behind the terminator is uninitialised memory.
    memset(record.name, 0, sizeof(record.name));
    memcpy(record.name, tensor->name, strnlen(tensor->name, sizeof(record.name) - 1));
    record.use_count = 0;
}

namespace {

void * remote_get_base(ggml_backend_buffer_t buffer) {
    return reinterpret_cast<void *>(remote_of(buffer)->base);
}

ggml_status remote_init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor) {
    if (!is_dead(buffer) && remote_of(buffer)->device->server.dialect.may_be_padded(tensor)) {
        record_from_tensor(tensor, remote_of(buffer)->device->server, g_exchange.tensor);
        g_remote.init_tensor(remote_of(buffer)->device->index);
    }
    // Of views of a KV cache, and whatever else comes later, nobody asks.
    if (!is_dead(buffer) && buffer->usage == GGML_BACKEND_BUFFER_USAGE_ANY && tensor->view_src == nullptr) {
        remote_of(buffer)->placed.push_back(tensor);
    }
    return GGML_STATUS_SUCCESS;
}

void remote_memset_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, uint8_t value, size_t offset, size_t size) {
    if (is_dead(buffer)) {
        return;
    }
    record_from_tensor(tensor, remote_of(buffer)->device->server, g_exchange.tensor);
    g_remote.memset_tensor(remote_of(buffer)->device->index, value, double(offset), double(size));
}

// Rows of `data` that are one run of bytes in the tensor.
void set_rows(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t row, size_t row_count, size_t data_stride) {
    if (is_dead(buffer)) {
        return;
    }
    record_from_tensor(tensor, remote_of(buffer)->device->server, g_exchange.tensor);
    g_remote.set_tensor(
        remote_of(buffer)->device->index, data, double(offset), double(row * row_count), buffer->usage == GGML_BACKEND_BUFFER_USAGE_WEIGHTS,
        double(row), double(data_stride));
}

void remote_set_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    set_rows(buffer, tensor, data, offset, size, 1, 0);
}

// A part of a weight that is cut by rows is one run in the tensor, and goes as one message.
void remote_set_tensor_2d(ggml_backend_buffer_t buffer, ggml_tensor * tensor, const void * data, size_t offset, size_t size, size_t row_count, size_t tensor_stride, size_t data_stride) {
    if (row_count > 1 && tensor_stride == size) {
        set_rows(buffer, tensor, data, offset, size, row_count, data_stride);
        return;
    }
    for (size_t row = 0; row < row_count; row++) {
        remote_set_tensor(buffer, tensor, static_cast<const char *>(data) + row * data_stride, offset + row * tensor_stride, size);
    }
}

ggml_backend_buffer_t buffer_of(const ggml_tensor * tensor) {
    return tensor->view_src != nullptr ? tensor->view_src->buffer : tensor->buffer;
}

// Whether a tensor is what one part of a graph computed for another: the hidden state of a model, whose rows have the model's width.
// Not what a user put in, such as masks and positions, nor what goes out, such as logits; nor what a context or a model keeps, whose
// buffers are of another usage than those of graphs.
bool is_activation(const ggml_tensor * tensor, const remote_server & server) {
    const auto & widths = server.bf16_widths;
    if (tensor->type != GGML_TYPE_F32 || std::find(widths.begin(), widths.end(), tensor->ne[0]) == widths.end()) {
        return false;
    }
    const ggml_tensor * whole = tensor->view_src != nullptr ? tensor->view_src : tensor;
    return ((tensor->flags | whole->flags) & (GGML_TENSOR_FLAG_INPUT | GGML_TENSOR_FLAG_OUTPUT)) == 0 && whole->op != GGML_OP_NONE &&
        ggml_is_contiguous(tensor) && whole->buffer != nullptr && whole->buffer->usage == GGML_BACKEND_BUFFER_USAGE_COMPUTE;
}

// Where ggml's scheduler copies activations to: as large, and without gaps as well.
bool takes_activation(const ggml_tensor * target, const ggml_tensor * source) {
    return target->type == GGML_TYPE_F32 && ggml_is_contiguous(target) && ggml_nelements(target) == ggml_nelements(source);
}

// Of a tensor that is converted here, on its way.
std::vector<uint16_t> g_halves;

void remote_get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    if (is_dead(buffer)) {
        return;
    }
    const remote_device * device = remote_of(buffer)->device;
    record_from_tensor(tensor, device->server, g_exchange.tensor);
    // Of activations, the scheduler alone reads, for a device of this host: all at once.
    if (size == ggml_nbytes(tensor) && size > 0 && is_activation(tensor, device->server)) {
        const size_t count = size / sizeof(float);
        g_halves.resize(count);
        g_remote.get_bf16(device->index, g_halves.data(), double(count * sizeof(uint16_t)));
        f32_from_bf16(data, g_halves.data(), count);
        return;
    }
    g_remote.get_tensor(device->index, data, double(offset), double(size), 0);
}

bool remote_copy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor * source, ggml_tensor * target) {
    if (!is_remote_buffer(source->buffer) || is_dead(source->buffer) || is_dead(buffer)) {
        return false;
    }
    remote_device * from = remote_of(source->buffer)->device;
    remote_device * to   = remote_of(buffer)->device;
    if (from->server.connection != to->server.connection) {
        return false;
    }
    record_from_tensor(source, to->server, g_exchange.tensor);
    record_from_tensor(target, to->server, g_exchange.other);
    return g_remote.copy_tensor(to->index, from->index) != 0;
}

void remote_clear(ggml_backend_buffer_t buffer, uint8_t value) {
    if (is_dead(buffer)) {
        return;
    }
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
        if (!g_dead_buffers) {
            return nullptr;
        }
        g_exchange.remote_ptr = 0;
        g_exchange.base       = DEAD_BASE;
        g_exchange.size       = size;
        g_dead_buffer_count++;
    }
    ggml_backend_buffer_i iface{};
    iface.free_buffer   = remote_free_buffer;
    iface.get_base      = remote_get_base;
    iface.init_tensor   = remote_init_tensor;
    iface.memset_tensor = remote_memset_tensor;
    iface.set_tensor    = remote_set_tensor;
    iface.set_tensor_2d = remote_set_tensor_2d;
    iface.get_tensor    = remote_get_tensor;
    iface.cpy_tensor    = remote_copy_tensor;
    iface.clear         = remote_clear;
    auto * context = new remote_buffer{device, g_exchange.remote_ptr, g_exchange.base, {}};
    g_buffers.push_back(ggml_backend_buffer_init(type, iface, context, size_t(g_exchange.size)));
    return g_buffers.back();
}

size_t remote_alignment(ggml_backend_buffer_type_t type) {
    return device_of(type)->alignment;
}

size_t remote_max_size(ggml_backend_buffer_type_t type) {
    return device_of(type)->max_size;
}

// What the size may depend on, as upstream's client keys its cache (8.0.0): type, shape, strides, operation
// and parameters. Sources are left out: contexts reserve with the largest ones first, and a growing KV
// cache would miss at every batch.
std::string alloc_size_key(const ggml_tensor * tensor) {
    std::string key;
    key.append(reinterpret_cast<const char *>(&tensor->type), sizeof(tensor->type));
    key.append(reinterpret_cast<const char *>(tensor->ne), sizeof(tensor->ne));
    key.append(reinterpret_cast<const char *>(tensor->nb), sizeof(tensor->nb));
    key.append(reinterpret_cast<const char *>(&tensor->op), sizeof(tensor->op));
    key.append(reinterpret_cast<const char *>(tensor->op_params), sizeof(tensor->op_params));
    return key;
}

size_t remote_alloc_size(ggml_backend_buffer_type_t type, const ggml_tensor * tensor) {
    const size_t plain = ggml_nbytes(tensor);
    const remote_server & server = device_of(type)->server;
    if (device_of(type)->sizes_are_plain || (!server.dialect.may_be_padded(tensor) && !server.dialect.may_expand(tensor->op))) {
        return plain;
    }
    // Asked hundreds of times for each new graph: the cache is here, not behind the callback.
    auto & known = device_of(type)->alloc_sizes;
    const std::string key = alloc_size_key(tensor);
    const auto found = known.find(key);
    if (found != known.end()) {
        return found->second;
    }
    record_from_tensor(tensor, server, g_exchange.tensor);
    for (int i = 0; i < GGML_MAX_SRC; i++) {
        if (tensor->src[i] != nullptr) {
            record_from_tensor(tensor->src[i], server, g_exchange.sources[i]);
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

// What decodes under way are to find of their logits, and where that is told; see gs_remote_find.
struct {
    found_rows * rows  = nullptr;
    int          count = 0;
} g_find;

// Largest values of several rows, which arrive one after the other and belong to the rows.
struct found_block {
    std::vector<top_value> values;
    char * data;
    size_t stride;
    size_t row_count;
    size_t count;
};

// One for each llama_context and device.
struct remote_backend {
    remote_device * device;
    double          last_ticket; // of its asynchronous reads since it last synchronized; 0 none
    // The first `found_count` are on their way, or here; the others are room for more.
    std::vector<found_block> found;
    size_t found_count = 0;
};

remote_backend * backend_of(ggml_backend_t backend) {
    return static_cast<remote_backend *>(backend->context);
}

remote_device * device_of(ggml_backend_t backend) {
    return backend_of(backend)->device;
}

remote_device * device_of(ggml_backend_dev_t device) {
    return static_cast<remote_device *>(device->context);
}

const char * remote_backend_name(ggml_backend_t backend) {
    return device_of(backend)->name.c_str();
}

void remote_backend_free(ggml_backend_t backend) {
    delete backend_of(backend);
    delete backend;
}

void remote_set_tensor_async(ggml_backend_t, ggml_tensor * tensor, const void * data, size_t offset, size_t size) {
    remote_set_tensor(buffer_of(tensor), tensor, data, offset, size);
}

// Whether a read is one of a model's output, whose largest values are all that is wanted of it: these, with their indexes, have to fit
// into its place. Of the outputs of a graph that generates, libllama reads no other one.
bool is_to_find(const ggml_tensor * tensor, const remote_server & server) {
    const int64_t columns = tensor->ne[0];
    return (tensor->flags & GGML_TENSOR_FLAG_OUTPUT) != 0 && tensor->type == GGML_TYPE_F32 && ggml_is_contiguous(tensor) &&
        columns <= server.top_row_max && 2 * int64_t(g_find.count) <= columns && uint64_t(columns) * sizeof(float) <= g_find.rows->row_bytes;
}

// Tells of a part of rows that holds largest values, once; false where that are too many.
bool note_part(const void * data, int64_t columns) {
    found_rows & rows = *g_find.rows;
    const uint64_t address = reinterpret_cast<uint64_t>(data);
    for (uint64_t i = 0; i < rows.part_count; i++) {
        const uint64_t other = rows.parts[i].address;
        if ((address > other ? address - other : other - address) % rows.row_bytes == 0) {
            return true;
        }
    }
    if (rows.part_count == FOUND_PARTS_MAX) {
        return false;
    }
    rows.parts[rows.part_count++] = {address, uint64_t(columns), uint64_t(g_find.count)};
    return true;
}

// Reads the largest values of rows to where these have their places, which are `stride` bytes apart; false where they have to be read whole.
bool find_rows(ggml_backend_t backend, const ggml_tensor * tensor, void * data, size_t offset, size_t size, size_t stride) {
    remote_backend * context = backend_of(backend);
    const remote_server & server = context->device->server;
    if (g_find.count == 0 || size == 0 || !is_to_find(tensor, server) || size % tensor->nb[1] != 0 || !note_part(data, tensor->ne[0])) {
        return false;
    }
    const size_t row_count = size / tensor->nb[1];
    const size_t count     = size_t(g_find.count);
    void * target = data;
    // Where rows of an earlier read have not come to their places, later ones go to theirs behind them.
    if (row_count > 1 || context->found_count > 0) {
        if (context->found_count == context->found.size()) {
            context->found.emplace_back();
        }
        found_block & block = context->found[context->found_count++];
        block.values.resize(row_count * count);
        block.data      = static_cast<char *>(data);
        block.stride    = stride;
        block.row_count = row_count;
        block.count     = count;
        target = block.values.data();
    }
    record_from_tensor(tensor, server, g_exchange.tensor);
    context->last_ticket = g_remote.get_top(context->device->index, target, double(offset), double(size), int(count), double(row_count));
    return true;
}

// What has arrived goes to its rows.
void place_found(remote_backend * context) {
    for (size_t i = 0; i < context->found_count; i++) {
        const found_block & block = context->found[i];
        for (size_t row = 0; row < block.row_count; row++) {
            memcpy(block.data + row * block.stride, block.values.data() + row * block.count, block.count * sizeof(top_value));
        }
    }
    context->found_count = 0;
}

void remote_get_tensor_async(ggml_backend_t backend, const ggml_tensor * tensor, void * data, size_t offset, size_t size) {
    if (is_dead(buffer_of(tensor))) {
        return;
    }
    if (find_rows(backend, tensor, data, offset, size, tensor->nb[1])) {
        return;
    }
    record_from_tensor(tensor, device_of(backend)->server, g_exchange.tensor);
    backend_of(backend)->last_ticket = g_remote.get_tensor(device_of(backend)->index, data, double(offset), double(size), 1);
}

// Rows of a part of a tensor that is cut.
void remote_get_tensor_2d_async(ggml_backend_t backend, const ggml_tensor * tensor, void * data, size_t offset, size_t size, size_t row_count, size_t tensor_stride, size_t data_stride) {
    if (tensor_stride == size && !is_dead(buffer_of(tensor)) && find_rows(backend, tensor, data, offset, row_count * size, data_stride)) {
        return;
    }
    for (size_t row = 0; row < row_count; row++) {
        remote_get_tensor_async(backend, tensor, static_cast<char *>(data) + row * data_stride, offset + row * tensor_stride, size);
    }
}

void remote_synchronize(ggml_backend_t backend) {
    remote_backend * context = backend_of(backend);
    // Libllama synchronizes ten times a token, most often with nothing to wait for. What other contexts read later
    // is theirs to wait for.
    if (context->last_ticket > 0) {
        const double ticket = context->last_ticket;
        context->last_ticket = 0;
        g_remote.synchronize(context->device->index, ticket);
        place_found(context);
    }
}

// What this host computed, on its way to a server as bf16.
void send_activation(ggml_backend_t backend, const ggml_tensor * source, const ggml_tensor * target, const remote_device * device) {
    const size_t count = size_t(ggml_nelements(source));
    static std::vector<float> values;
    const void * data = source->data;
    ggml_backend_synchronize(backend);
    if (!ggml_backend_buffer_is_host(buffer_of(source))) {
        values.resize(count);
        ggml_backend_tensor_get(source, values.data(), 0, count * sizeof(float));
        data = values.data();
    }
    g_halves.resize(count);
    bf16_from_f32(g_halves.data(), data, count);
    record_from_tensor(target, device->server, g_exchange.tensor);
    g_remote.set_bf16(device->index, g_halves.data(), double(count * sizeof(uint16_t)));
}

// What one server computed goes to another one, where ggml's scheduler copies it between two parts of a graph. With true it
// does not wait for the data: the copy is a place in the order of both connections, as all else is. Between devices of one
// server, which copies by itself, and from or to this host it is false: the scheduler waits then. What this host computed for a server
// to which activations go as bf16 is sent at once.
bool remote_copy_async(ggml_backend_t source_backend, ggml_backend_t, const ggml_tensor * source, ggml_tensor * target) {
    ggml_backend_buffer_t from = buffer_of(source);
    ggml_backend_buffer_t to   = buffer_of(target);
    if (from == nullptr || !is_remote_buffer(to) || is_dead(to)) {
        return false;
    }
    const size_t size = ggml_nbytes(source);
    const remote_device * device = remote_of(to)->device;
    const bool is_bf16 = takes_activation(target, source) && is_activation(source, device->server);
    if (!is_remote_buffer(from)) {
        if (is_bf16 && size > 0) {
            send_activation(source_backend, source, target, device);
        }
        return is_bf16;
    }
    const remote_device * source_device = remote_of(from)->device;
    if (is_dead(from) || source_device->server.connection == device->server.connection) {
        return false;
    }
    if (size == 0) {
        return true;
    }
    record_from_tensor(source, source_device->server, g_exchange.tensor);
    record_from_tensor(target, device->server, g_exchange.other);
    // Nothing is converted on the way: both have to know how.
    const bool is_both = is_bf16 && is_activation(source, source_device->server);
    return g_remote.relay(device->index, source_device->index, double(size), is_both ? 1 : 0) != 0;
}

ggml_status remote_graph_compute(ggml_backend_t backend, ggml_cgraph * graph) {
    if (g_dead_buffer_count > 0) {
        return GGML_STATUS_ALLOC_FAILED;
    }
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
    backend->context = new remote_backend{device_of(device), 0, {}};
    backend->iface.get_name         = remote_backend_name;
    backend->iface.free             = remote_backend_free;
    backend->iface.set_tensor_async = remote_set_tensor_async;
    backend->iface.get_tensor_async = remote_get_tensor_async;
    backend->iface.get_tensor_2d_async = remote_get_tensor_2d_async;
    backend->iface.cpy_tensor_async = remote_copy_async;
    backend->iface.synchronize      = remote_synchronize;
    backend->iface.graph_compute    = remote_graph_compute;
    return backend;
}

ggml_backend_buffer_type_t remote_device_buft(ggml_backend_dev_t device) {
    return &device_of(device)->buffer_type;
}

// Whether libllama made up a node to ask whether a weight may lie on the device, one that no kernel computes and no server takes
// (llama-model-loader.cpp `weight_buft_supported`): a rotation of no dimension, a recurrence whose heads do not fit. On where the weight is
// depends whether a graph comes in one piece; what computes with it is asked about as it is.
bool is_made_up(const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_ROPE:
            return op->op_params[1] == 0;
        case GGML_OP_RWKV_WKV6:
            return op->src[3] != nullptr && op->src[3]->ne[0] != op->src[0]->ne[0];
        default:
            return false;
    }
}

// The protocol has no such question: a server of upstream's is taken to run every operation of its version.
bool is_supported(remote_device * device, const ggml_tensor * op) {
    remote_server & server = device->server;
    if (!server.dialect.supports(op)) {
        return false;
    }
    if (!server.support.can_ask || computes_nothing(op) || is_made_up(op)) {
        return true;
    }
    remote_support::answer answer = server.support.find(op);
    if (answer == remote_support::answer::unknown) {
        server.support.ask(op, server);
        if (!server.support.may_gather()) {
            g_remote.ask_support(device->index);
        }
        answer = server.support.find(op);
    }
    return answer != remote_support::answer::no;
}

// Whether the result lies in the device's memory already, so that no other device can compute it.
bool is_held(const remote_device * device, const ggml_tensor * tensor) {
    const ggml_backend_buffer_t buffer = buffer_of(tensor);
    return buffer != nullptr && buffer->buft == &device->buffer_type;
}

bool remote_supports_op(ggml_backend_dev_t dev, const ggml_tensor * op) {
    remote_device * device = device_of(dev);
    if (is_supported(device, op)) {
        return true;
    }
    // What has to run here would end the process in ggml's scheduler: a measurement goes on, and tells.
    return device->server.support.note_refusal(op, is_held(device, op));
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
        made.iface.get_proc_address = remote_group_proc;
        return made;
    }();
    return &reg;
}

} // namespace

int remote_index_of(ggml_backend_t backend) {
    return backend->iface.get_name == remote_backend_name ? device_of(backend)->index : -1;
}

API void gs_remote_set_callbacks(void * const * callbacks) {
    static_assert(sizeof(remote_callbacks) == 20 * sizeof(void *), "the callbacks are an array of pointers");
    memcpy(&g_remote, callbacks, sizeof(g_remote));
}

// Whether ggml gets a buffer that stands for nothing where a server has no memory: for its meta device.
API void gs_remote_dead_buffers(int are_given) {
    g_dead_buffers = are_given != 0;
}

API void * gs_remote_exchange() {
    return &g_exchange;
}

API int gs_remote_exchange_size() {
    return int(sizeof(g_exchange));
}

// Makes a device whose operations arrive in the callbacks under `index`. max_size < 0: no limit.
// sizes_are_plain: get_alloc_size need not be called. top_row_max: get_top may be called for rows of so many values at most; 0: never.
API ggml_backend_dev_t gs_remote_device_new(int index, int connection, const char * name, const char * description, double alignment, double max_size, int sizes_are_plain, int top_row_max) {
    auto * device = new remote_device();
    device->index            = index;
    device->server.connection = connection;
    device->server.top_row_max = top_row_max;
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

// From now on activations of a model of this width go to and from a device as bf16; 0: of no model.
API void gs_remote_device_carry_bf16(ggml_backend_dev_t device, double width) {
    auto & widths = server_of(device).bf16_widths;
    if (width == 0) {
        widths.clear();
    } else {
        widths.push_back(int64_t(width));
    }
}

// Until this is called again, of logits that are read the `count` most likely tokens of each row are wanted alone, which servers that
// know how find; `rows` tells then where these are. Rows have `row_size` values in libllama's memory. 0: all are wanted, and `rows` has none.
API void gs_remote_find(found_rows * rows, int row_size, int count) {
    if (rows != nullptr) {
        rows->row_bytes  = uint64_t(row_size) * sizeof(float);
        rows->part_count = 0;
    }
    g_find = {rows, count};
}

API int gs_found_rows_size() {
    return int(sizeof(found_rows));
}

// Looks for weights that have places on remote devices and no data yet; returns how many there are. Only while a model is
// loaded, before the first of them is set.
API int gs_remote_coming_weights() {
    g_coming.clear();
    for (ggml_backend_buffer_t buffer : g_buffers) {
        if (buffer->usage != GGML_BACKEND_BUFFER_USAGE_WEIGHTS) {
            continue;
        }
        for (ggml_tensor * tensor : remote_of(buffer)->placed) {
            g_coming.push_back({tensor, remote_of(buffer)->device});
        }
        remote_of(buffer)->placed.clear();
    }
    return int(g_coming.size());
}

// One of them: its record goes into the exchange's `other`, its size in bytes into `size`. Returns the index of its device.
API int gs_remote_coming_weight(int index) {
    const coming_weight & weight = g_coming[size_t(index)];
    record_from_tensor(weight.tensor, weight.device->server, g_exchange.other);
    g_exchange.size = ggml_nbytes(weight.tensor);
    return weight.device->index;
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
