// What a server of another version can compute, and how it says so.

#include "remote_dialect.h"
#include "api.h"
#include "ggml-backend-impl.h"
#include "remote_device.h"
#include "views.h"

namespace {

int number_in(const std::vector<int16_t> & table, int number) {
    return number >= 0 && size_t(number) < table.size() ? table[size_t(number)] : -1;
}

// These carry host function pointers.
bool has_callback(ggml_op op) {
    return op == GGML_OP_MAP_CUSTOM1 || op == GGML_OP_MAP_CUSTOM2 || op == GGML_OP_MAP_CUSTOM3 || op == GGML_OP_CUSTOM;
}

// The number of an operation's kind; 0 for operations without kinds.
int kind_of(const remote_dialect & dialect, const ggml_tensor * op) {
    switch (op->op) {
        case GGML_OP_UNARY:
            return number_in(dialect.unary_ops, op->op_params[0]);
        case GGML_OP_GLU:
            return number_in(dialect.glu_ops, op->op_params[0]);
        default:
            return 0;
    }
}

} // namespace

bool remote_dialect::has_number(const ggml_tensor * op) const {
    return computes_nothing(op) || (number_in(ops, op->op) >= 0 && kind_of(*this, op) >= 0);
}

bool remote_dialect::supports(const ggml_tensor * op) const {
    if (has_callback(op->op) || !has_number(op) || number_in(types, op->type) <= 0) {
        return false;
    }
    for (const ggml_tensor * source : op->src) {
        if (source != nullptr && number_in(types, source->type) <= 0) {
            return false;
        }
    }
    for (const source_limit & rule : source_limits) {
        if (rule.op == uint32_t(op->op)) {
            const ggml_tensor * source = op->src[rule.source];
            if (source == nullptr || (rule.type != any_type && rule.type != uint32_t(source->type))) {
                return false;
            }
        }
    }
    for (const limit & rule : limits) {
        if (rule.op == uint32_t(op->op)) {
            const uint32_t value = uint32_t(op->op_params[rule.slot]) & rule.mask;
            if (value < rule.min || value > rule.max) {
                return false;
            }
        }
    }
    return true;
}

void remote_dialect::translate(const ggml_tensor * tensor, tensor_record & record) const {
    const int number = number_in(ops, tensor->op);
    const int kind   = kind_of(*this, tensor);
    if (number < 0 || kind < 0) {
        record.op = GGML_OP_NONE;
        return;
    }
    record.op = uint32_t(number);
    if (tensor->op == GGML_OP_UNARY || tensor->op == GGML_OP_GLU) {
        record.op_params[0] = kind;
    }
}

// As upstream's client, ggml-rpc.cpp buffer_init_tensor.
bool remote_dialect::may_be_padded(const ggml_tensor * tensor) const {
    return ggml_is_quantized(tensor->type) && tensor->ne[0] % quantized_row_multiple != 0 && tensor->view_src == nullptr;
}

bool remote_dialect::may_expand(ggml_op op) const {
    return number_in(expanding_ops, op) > 0 && ggml_op_alloc_size_may_expand(op);
}

// How the server of a device numbers things. `tables` holds those of remote_dialect one after the other, `counts` how long
// each is, then the number of limits of five words each, that of source limits of three words each, which follow, and
// whether use counts are read, and the multiple of quantized rows.
API void gs_remote_device_set_dialect(ggml_backend_dev_t device, const int16_t * tables, const uint32_t * limits, const uint32_t * counts) {
    remote_dialect & dialect = server_of(device).dialect;
    std::vector<int16_t> * const targets[] = {&dialect.ops, &dialect.unary_ops, &dialect.glu_ops, &dialect.types, &dialect.expanding_ops};
    for (std::vector<int16_t> * target : targets) {
        target->assign(tables, tables + *counts);
        tables += *counts++;
    }
    dialect.limits.clear();
    for (uint32_t i = 0; i < counts[0]; i++, limits += 5) {
        dialect.limits.push_back({limits[0], limits[1], limits[2], limits[3], limits[4]});
    }
    dialect.source_limits.clear();
    for (uint32_t i = 0; i < counts[1]; i++, limits += 3) {
        dialect.source_limits.push_back({limits[0], limits[1], limits[2]});
    }
    dialect.has_use_counts = counts[2] != 0;
    dialect.quantized_row_multiple = counts[3];
}
