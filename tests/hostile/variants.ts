/** More valid nodes: for each kernel that an operation has, by type, mode and shape, where validNodes.ts has one of them. */
import { types } from "@ggml-rpc/protocol"
import type { ValidNode } from "../../packages/server/test/validNodes.ts"

const node = (
  op: string,
  result: string,
  sources: readonly string[],
  params: readonly number[] = [],
  floats: Readonly<Record<number, number>> = {},
): ValidNode => ({ op, result, sources, params, floats })

/** A node that writes into one of its sources. */
const into = (over: number, valid: ValidNode): ValidNode => ({ ...valid, over })

const range = (count: number): readonly number[] => Array.from({ length: count }, (_, i) => i)

/** Quantized types that weights have: Q8_1 and Q8_K are what ggml makes of activations. */
const quantized = types
  .filter(({ blockSize, name }) => blockSize > 1 && name !== "Q8_1" && name !== "Q8_K")
  .map(({ name }) => name)

const halves = ["F16", "BF16"]

/** Types that `quantize_row` makes of floats without an importance matrix. */
const written = ["Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4"]

const products = [
  ...[...quantized, ...halves].flatMap((type) => [
    node("MUL_MAT", "F32 6,5", [`${type} 256,6`, "F32 256,5"]),
    node("MUL_MAT_ID", "F32 6,2,5", [`${type} 256,6,4`, "F32 256,1,5", "I32 2,5"]),
    node("GET_ROWS", "F32 256,3", [`${type} 256,5`, "I32 3"]),
  ]),
  ...["Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL", "F16", "BF16", "F32"].flatMap((type) => [
    // Whole tiles, and one column more.
    node("MUL_MAT", "F32 64,32", [`${type} 256,64`, "F32 256,32"]),
    node("MUL_MAT", "F32 48,17,2", [`${type} 256,48,1`, "F32 256,17,2"]),
    node("MUL_MAT", "F32 64,1", [`${type} 256,64`, "F32 256,1"]),
  ]),
  node("MUL_MAT", "F32 6,5", ["F16 64,6", "F16 64,5"]),
  node("MUL_MAT", "F32 6,5", ["BF16 64,6", "BF16 64,5"]),
  node("MUL_MAT_ID", "F32 64,4,32", ["Q4_K 256,64,4", "F32 256,4,32", "I32 4,32"]),
  node("OUT_PROD", "F32 32,5", ["Q4_0 32,16", "F32 5,16"]),
]

const copies = [
  ...written.flatMap((type) => [
    into(1, node("CPY", `${type} 128,4`, ["F32 128,4", `${type} 128,4`])),
    into(1, node("CPY", "F32 128,4", [`${type} 128,4`, "F32 128,4"])),
    into(2, node("SET_ROWS", `${type} 128,5,2`, ["F32 128,3,2", "I64 3,1", `${type} 128,5,2`])),
    node("ADD", `${type} 128,4`, [`${type} 128,4`, "F32 128,4"]),
  ]),
  ...["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0"].map((type) =>
    into(1, node("CPY", `${type} 256,4`, ["F32 256,4", `${type} 256,4`])),
  ),
  ...["F32", "F16", "BF16"].flatMap((from) =>
    ["F32", "F16", "BF16"].map((to) =>
      into(1, node("CPY", `${to} 8,4`, [`${from} 8,4`, `${to} 8,4`])),
    ),
  ),
  into(1, node("CPY", "I32 8,4", ["F32 8,4", "I32 8,4"])),
  into(1, node("CPY", "F32 8,4", ["I32 8,4", "F32 8,4"])),
  ...halves.flatMap((type) => [
    node("DUP", `${type} 8,4`, [`${type} 8,4`]),
    node("CONT", `${type} 8,4`, [`${type} 8,4`]),
    into(2, node("SET_ROWS", `${type} 8,5`, ["F32 8,3", "I32 3", `${type} 8,5`])),
  ]),
  into(2, node("SET_ROWS", "F32 8,5", ["F32 8,3", "I64 3", "F32 8,5"])),
  node("DUP", "I32 8,4", ["I32 8,4"]),
]

const elementwise = [
  ...range(22).map((kind) => node("UNARY", "F32 8,4,2", ["F32 8,4,2"], [kind])),
  ...range(22).map((kind) => node("UNARY", "F16 8,4,2", ["F16 8,4,2"], [kind])),
  ...range(7).flatMap((kind) => [
    node("GLU", "F32 8,4", ["F32 16,4"], [kind, 1]),
    node("GLU", "F32 8,4", ["F32 8,4", "F32 8,4"], [kind]),
  ]),
  ...range(3).map((kind) => node("GLU", "F16 8,4", ["F16 16,4"], [kind])),
  ...halves.flatMap((type) => [
    node("ADD", `${type} 8,4`, [`${type} 8,4`, `${type} 8,4`]),
    node("MUL", `${type} 8,4`, [`${type} 8,4`, "F32 8,1"]),
    node("SUB", `${type} 8,4`, [`${type} 8,4`, `${type} 1,4`]),
    node("DIV", `${type} 8,4`, [`${type} 8,4`, "F32 1,1"]),
    node("SQR", `${type} 8,4`, [`${type} 8,4`]),
    node("ADD1", `${type} 8,4`, [`${type} 8,4`, "F32 1"]),
    node("SUM", `${type} 1`, [`${type} 8,4`]),
  ]),
  // Rows that repeat inside of a row.
  ...["ADD", "MUL"].map((op) => node(op, "F32 12,4,2", ["F32 12,4,2", "F32 4,2,1"])),
  node("ADD1", "Q4_0 32,4", ["Q4_0 32,4", "F32 1"]),
  node("ACC", "F32 8,4", ["F32 8,4", "F32 4,2"], [32, 128, 128, 16, 0]),
  node("SET", "I32 8,4", ["I32 8,4", "I32 4,2"], [32, 128, 128, 16, 0]),
  node("CLAMP", "F16 8,4", ["F16 8,4"], [], { 0: -1, 1: 1 }),
]

const ropes = [0, 2].flatMap((mode) =>
  ["F32", "F16"].flatMap((type) =>
    ["ROPE", "ROPE_BACK"].map((op) =>
      node(op, `${type} 16,4,3`, [`${type} 16,4,3`, "I32 3"], [0, 12, mode], {
        ...{ 5: 10000, 6: 1, 7: 1, 8: 1, 9: 32, 10: 1 },
      }),
    ),
  ),
)

const sections = [0, 0, 0, 0, 0, 0, 0, 0]
const sectioned = [
  node("ROPE", "F32 16,4,3", ["F32 16,4,3", "I32 12"], [0, 16, 40, ...sections, 4, 2, 2, 0], {
    ...{ 5: 10000, 6: 1, 8: 1 },
  }),
  node("ROPE", "F32 16,4,3", ["F32 16,4,3", "I32 12"], [0, 8, 24, ...sections, 4, 4, 0, 0], {
    ...{ 5: 10000, 6: 1, 8: 1 },
  }),
]

const attention = [
  // One query, many keys: the keys are shared among threads.
  node(
    "FLASH_ATTN_EXT",
    "F32 64,8,1",
    ["F32 64,1,8", "F16 64,600,2", "F16 64,600,2", "F16 600,1"],
    [],
    { 0: 0.125 },
  ),
  // Many queries: tiles.
  node(
    "FLASH_ATTN_EXT",
    "F32 64,2,70",
    ["F32 64,70,2", "F16 64,128,1", "F16 64,128,1", "F16 128,70"],
    [],
    { 0: 0.125, 2: 30 },
  ),
  node("FLASH_ATTN_EXT", "F32 64,4,3", ["F32 64,3,4", "F32 64,32,2", "F32 64,32,2"], [], { 0: 1 }),
  node(
    "FLASH_ATTN_EXT",
    "F32 64,4,3",
    ["F32 64,3,4", "BF16 64,32,2", "BF16 64,32,2", "F16 32,3"],
    [],
    { 0: 1, 1: 8 },
  ),
  // Keys and values of other lengths.
  node("FLASH_ATTN_EXT", "F32 32,4,3", ["F32 64,3,4", "F16 64,32,2", "F16 32,32,2"], [], { 0: 1 }),
  ...["Q4_0", "Q8_0", "Q5_1", "IQ4_NL"].flatMap((type) => [
    node("FLASH_ATTN_EXT", "F32 64,4,3", ["F32 64,3,4", `${type} 64,32,2`, `${type} 64,32,2`], [], {
      0: 1,
    }),
    node(
      "FLASH_ATTN_EXT",
      "F32 64,2,70",
      ["F32 64,70,2", `${type} 64,128,1`, `${type} 64,128,1`],
      [],
      { 0: 1 },
    ),
  ]),
  node("SOFT_MAX", "F32 8,4,2", ["F32 8,4,2"], [], { 0: 1 }),
  node("SOFT_MAX", "F32 8,4,2", ["F32 8,4,2", "F32 8,4,1"], [], { 0: 1, 1: 8 }),
  node("LIGHTNING_INDEXER", "F32 6,3", ["F32 64,4,3", "F32 64,1,6", "F32 4,3", "F16 6,3"]),
  node("LIGHTNING_INDEXER", "F32 6,3", ["F32 64,4,3", "Q8_0 64,1,6", "F32 4,3", "F16 6,3"]),
]

const images = [
  ...[1, 2, 257, 513].map((mode) => node("UPSCALE", "F32 9,7,3", ["F32 4,5,3"], [mode])),
  ...[1, 513].map((mode) => node("UPSCALE", "F32 3,2,3", ["F32 8,9,3"], [mode])),
  ...["F32", "F16"].flatMap((type) => [
    node("POOL_2D", "F32 4,4,3", [`${type} 8,8,3`], [0, 2, 2, 2, 2, 0, 0]),
    node("POOL_2D", "F32 5,5,3", [`${type} 8,8,3`], [1, 3, 3, 2, 2, 2, 2]),
    node("POOL_1D", "F32 5,3", [`${type} 8,3`], [0, 2, 2, 1]),
    node("IM2COL", `${type} 27,6,6,2`, ["F16 3,3,3,5", "F32 8,8,3,2"], [1, 1, 0, 0, 1, 1, 1]),
    node("CONV_2D", "F32 4,4,5,2", [`${type} 3,3,3,5`, "F32 8,8,3,2"], [2, 2, 1, 1, 1, 1]),
    node("CONV_TRANSPOSE_1D", "F32 13,5", [`${type} 3,5,2`, "F32 6,2"], [2, 0, 1]),
    node("CONV_TRANSPOSE_2D", "F32 9,9,5,2", [`${type} 3,3,5,3`, "F32 4,4,3,2"], [2]),
  ]),
  node("POOL_2D_BACK", "F32 8,8,3", ["F32 4,4,3", "F32 8,8,3"], [0, 2, 2, 2, 2, 0, 0]),
  ...halves.map((type) => node("COL2IM_1D", `${type} 11,2`, [`${type} 6,5`], [2, 2, 0])),
  node("PAD", "F32 11,6,4,3", ["F32 8,4,2,1"], [1, 2, 1, 1, 1, 1, 1, 1, 0]),
  node("PAD", "F32 11,6,4,3", ["F32 8,4,2,1"], [1, 2, 1, 1, 1, 1, 1, 1, 1]),
  ...range(4).map((dim) => {
    const ne = [8, 4, 2, 3]
    const joined = ne.map((count, index) => (index === dim ? 2 * count : count))
    return node("CONCAT", `F32 ${joined}`, [`F32 ${ne}`, `F32 ${ne}`], [dim])
  }),
  ...["F16", "I32", "I16", "I8"].map((type) =>
    node("CONCAT", `${type} 8,7`, [`${type} 8,4`, `${type} 8,3`], [1]),
  ),
  ...["F16", "I16", "I32", "BF16"].map((type) =>
    node("REPEAT", `${type} 16,4,6`, [`${type} 8,2,3`]),
  ),
  ...range(4).map((kind) => node("TRI", "F32 8,8,2", ["F32 8,8,2"], [kind])),
  node("ARGSORT", "I32 300,4", ["F32 300,4"], [0]),
  node("TOP_K", "I32 40,4", ["F32 300,4"]),
]

const recurrent = [
  node(
    "SSM_SCAN",
    "F32 1280",
    [
      ...["F32 16,4,8,2", "F32 4,8,4,2", "F32 8,4,2", "F32 16,8", "F32 16,2,4,2", "F32 16,2,4,2"],
      "I32 2",
    ],
    [1],
  ),
  node(
    "SSM_SCAN",
    "F32 2304",
    [
      ...["F32 16,4,8,2", "F32 4,8,4,2", "F32 8,4,2", "F32 1,8", "F32 16,2,4,2", "F32 16,2,4,2"],
      "I32 2",
    ],
    [2],
  ),
  node(
    "GATED_DELTA_NET",
    "F32 256,132",
    ["F32 64,2,4", "F32 64,2,4", "F32 64,4,4", "F32 64,4,4", "F32 1,4,4", "F32 64,64,4"],
    [2],
  ),
]

export const variants: readonly ValidNode[] = [
  ...products,
  ...copies,
  ...elementwise,
  ...ropes,
  ...sectioned,
  ...attention,
  ...images,
  ...recurrent,
]
