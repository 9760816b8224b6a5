// C++'s operator new between guard pages: what ggml computes with besides its tensors, and the vectors of its kernels. Loaded
// for all (RTLD_GLOBAL) before ggml, it is found before libstdc++'s.

#define _GNU_SOURCE
#include "trap.h"

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE ((size_t) 4096)
#define GUARD ((size_t) 1 << 20)
#define ALIGNMENT ((size_t) 16)
#define CANARY 0xa5
// Sizes are pages, and twice as much each; as many places as 16 GiB of addresses have room for, at most.
#define SIZES 15
#define MOST_PLACES 4096
#define ARENA ((size_t) 16 << 30)
// What is not filled is zero at first, and what was there before later.
#define MOST_FILLED ((size_t) 64 << 10)

struct arena {
    char * base;
    size_t pages;
    size_t stride;
    int    count;
    int    used;
    int    free_count;
    int    free_places[MOST_PLACES];
    // Bytes of each block; 0 when the place is free.
    size_t sizes[MOST_PLACES];
};

// Bytes in use, and the most since heap_watch.
static size_t g_bytes;
static size_t g_most;
static size_t g_start;

static struct arena g_arenas[SIZES];
static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;

static char * end_of(const struct arena * arena, int place) {
    return arena->base + (size_t) place * arena->stride + GUARD + arena->pages * PAGE;
}

static size_t rounded(size_t size) {
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static int take_place(struct arena * arena) {
    if (arena->free_count > 0) {
        return arena->free_places[--arena->free_count];
    }
    if (arena->base == NULL) {
        arena->stride = arena->pages * PAGE + 2 * GUARD;
        arena->count = (int) (ARENA / arena->stride);
        if (arena->count > MOST_PLACES) {
            arena->count = MOST_PLACES;
        }
        void * base = mmap(NULL, arena->stride * (size_t) arena->count, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) {
            return -1;
        }
        arena->base = base;
    }
    if (arena->used == arena->count) {
        return -1;
    }
    const int place = arena->used;
    if (mprotect(end_of(arena, place) - arena->pages * PAGE, arena->pages * PAGE, PROT_READ | PROT_WRITE) != 0) {
        return -1;
    }
    arena->used++;
    return place;
}

static void * take(size_t size) {
    const size_t bytes = rounded(size == 0 ? 1 : size);
    for (int i = 0; i < SIZES; i++) {
        struct arena * arena = &g_arenas[i];
        arena->pages = (size_t) 1 << i;
        if (bytes > arena->pages * PAGE) {
            continue;
        }
        const int place = take_place(arena);
        if (place < 0) {
            break;
        }
        arena->sizes[place] = size == 0 ? 1 : size;
        g_bytes += arena->sizes[place];
        g_most = g_bytes > g_most ? g_bytes : g_most;
        char * block = end_of(arena, place) - bytes;
        memset(block, CANARY, bytes < MOST_FILLED ? bytes : MOST_FILLED);
        memset(block + arena->sizes[place], CANARY, bytes - arena->sizes[place]);
        return block;
    }
    return malloc(size);
}

static int is_damaged(const struct arena * arena, int place) {
    const size_t size = arena->sizes[place];
    const char * block = end_of(arena, place) - rounded(size);
    for (size_t at = size; at < rounded(size); at++) {
        if ((unsigned char) block[at] != CANARY) {
            return 1;
        }
    }
    return 0;
}

static void give(void * block) {
    for (int i = 0; i < SIZES; i++) {
        struct arena * arena = &g_arenas[i];
        if (arena->base == NULL || (char *) block < arena->base || (char *) block >= arena->base + arena->stride * (size_t) arena->count) {
            continue;
        }
        const int place = (int) (((char *) block - arena->base) / (ptrdiff_t) arena->stride);
        const int damaged = is_damaged(arena, place);
        g_bytes -= arena->sizes[place];
        arena->sizes[place] = 0;
        arena->free_places[arena->free_count++] = place;
        if (damaged) {
            pthread_mutex_unlock(&g_mutex);
            trap_report("ggml abort: wrote behind a block of operator new");
            pthread_mutex_lock(&g_mutex);
        }
        return;
    }
    free(block);
}

// The blocks that are in use are as they should be: 0, or how many are written behind.
int heap_damaged(void) {
    int damaged = 0;
    pthread_mutex_lock(&g_mutex);
    for (int i = 0; i < SIZES; i++) {
        for (int place = 0; place < g_arenas[i].used; place++) {
            if (g_arenas[i].sizes[place] != 0 && is_damaged(&g_arenas[i], place)) {
                damaged++;
            }
        }
    }
    pthread_mutex_unlock(&g_mutex);
    return damaged;
}

// From here on heap_most counts.
void heap_watch(void) {
    pthread_mutex_lock(&g_mutex);
    g_most = g_bytes;
    g_start = g_bytes;
    pthread_mutex_unlock(&g_mutex);
}

// The most bytes that were in use at a time besides those at heap_watch.
double heap_most(void) {
    return (double) (g_most - g_start);
}

static void * locked_take(size_t size) {
    pthread_mutex_lock(&g_mutex);
    void * block = take(size);
    pthread_mutex_unlock(&g_mutex);
    if (block == NULL) {
        trap_report("ggml abort: out of memory in operator new");
    }
    return block;
}

static void locked_give(void * block) {
    if (block == NULL) {
        return;
    }
    pthread_mutex_lock(&g_mutex);
    give(block);
    pthread_mutex_unlock(&g_mutex);
}

// operator new, new[], delete and delete[] with and without a size.
void * _Znwm(size_t size) { return locked_take(size); }
void * _Znam(size_t size) { return locked_take(size); }
void _ZdlPv(void * block) { locked_give(block); }
void _ZdaPv(void * block) { locked_give(block); }
void _ZdlPvm(void * block, size_t size) { (void) size; locked_give(block); }
void _ZdaPvm(void * block, size_t size) { (void) size; locked_give(block); }
