#pragma once

#include "abort_flag.h"

// This process's. Whoever computes looks at it (io_abort_flag).
extern abort_flag g_abort_flag;
