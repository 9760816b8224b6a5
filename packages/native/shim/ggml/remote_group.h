#pragma once

#include "ggml-backend.h"

// What ggml's meta device asks the registry of remote devices for by name: its all-reduce (ggml-backend.h, ggml_backend_comm_*).
void * remote_group_proc(ggml_backend_reg_t reg, const char * name);
