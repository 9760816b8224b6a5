/** A valid node of every operation: what ggml's constructors make (7.0.0), small. */
import {
  ABSENT_TENSOR,
  type RpcTensor,
  TensorFlag,
  type TypeInfo,
  typeId,
  types,
} from "@ggml-rpc/protocol"
import { newestOpId, sources, type TestBuffer } from "./TestClient.ts"

/**
 * `type ne0,ne1,…`, with dimensions that are missing being 1, and with ` nb0,nb1,nb2,nb3` behind for one that is not
 * contiguous. `"absent"` is a source that is left out.
 */
export type TensorText = string

export interface ValidNode {
  readonly op: string
  readonly result: TensorText
  /** `"result"` is the node itself. */
  readonly sources: readonly TensorText[]
  readonly params?: readonly number[]
  /** Parameters that are floats, by index. */
  readonly floats?: Readonly<Record<number, number>>
  /** The source that the result lies over. */
  readonly over?: number
}

const valid = (
  op: string,
  result: TensorText,
  nodeSources: readonly TensorText[],
  params: readonly number[] = [],
  floats: Readonly<Record<number, number>> = {},
): ValidNode => ({ op, result, sources: nodeSources, params, floats })

/** A node that writes into one of its sources. */
const into = (over: number, node: ValidNode): ValidNode => ({ ...node, over })

const ropeFloats = { 5: 10000, 6: 1, 8: 1 }

/** Flash Attention over keys and values of these types. */
const attention = (key: string, value: string): ValidNode =>
  valid(
    "FLASH_ATTN_EXT",
    "F32 64,4,3",
    ["F32 64,3,4 4,1024,256,3072", `${key} 64,32,2`, `${value} 64,32,2`, "F16 32,3"],
    [0, 0, 0, 10],
    { 0: 0.125 },
  )

const cacheTypes = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "Q5_0", "Q5_1"]

const rowwise = [
  "SQR",
  "SQRT",
  "LOG",
  "SIN",
  "COS",
  "CUMSUM",
  "NORM",
  "RMS_NORM",
  "L2_NORM",
  "SCALE",
  "CLAMP",
  "LEAKY_RELU",
  "FILL",
]

export const validNodes: readonly ValidNode[] = [
  ...rowwise.map((op) => valid(op, "F32 8,4,2,3", ["F32 8,4,2,3"])),
  ...["ADD", "SUB", "MUL", "DIV"].map((op) =>
    valid(op, "F32 8,4,2,3", ["F32 8,4,2,3", "F32 8,1,2,1"]),
  ),
  valid("ADD", "F16 8,4", ["F16 8,4", "F32 8,4"]),
  valid("MUL", "BF16 8,4", ["BF16 8,4", "BF16 8"]),
  valid("ADD", "F32 32,4", ["Q8_0 32,4", "F32 32,4"]),
  valid("ADD", "Q4_0 32,4", ["Q4_0 32,4", "F32 32,4"]),
  valid("DUP", "F32 8,4", ["F32 8,4"]),
  valid("DUP", "Q4_0 64,4", ["Q4_0 64,4"]),
  valid("CONT", "F32 16,2", ["F32 8,4"]),
  valid("CPY", "F16 8,4", ["F32 8,4", "result"]),
  valid("CPY", "I32 8,4", ["F32 8,4", "result"]),
  valid("CPY", "Q4_0 64,4", ["F16 64,4", "result"]),
  into(1, valid("CPY", "Q8_0 32,4", ["F32 32,4", "Q8_0 32,4"])),
  into(1, valid("CPY", "F32 64,2", ["Q8_0 32,4", "F32 64,2"])),
  valid("ADD_ID", "F32 8,4,2", ["F32 8,4,2", "F32 8,3", "I32 4,2"]),
  valid("ADD1", "F32 8,4", ["F32 8,4", "F32 1"]),
  valid("ADD1", "F16 8,4", ["F16 8,4", "F32 1"]),
  valid("ADD1", "Q8_0 32,4", ["Q8_0 32,4", "F32 1"]),
  valid("ACC", "F32 8,4", ["F32 8,4", "F32 4,2"], [32, 128, 128, 16, 1]),
  valid("SET", "F32 8,4", ["F32 8,4", "F32 4,2"], [32, 128, 128, 16, 1]),
  into(0, valid("SET", "I32 8,4", ["I32 8,4", "I32 4,2"], [32, 128, 128, 16, 1])),
  valid("SUM", "F32 1", ["F32 8,4,2"]),
  valid("SUM_ROWS", "F32 1,4,2", ["F32 8,4,2"]),
  valid("MEAN", "F32 1,4,2", ["F32 8,4,2"]),
  valid("ARGMAX", "I32 4", ["F32 8,4"]),
  valid("COUNT_EQUAL", "I64 1", ["I32 8,4", "I32 8,4"]),
  valid("REPEAT", "F32 16,4,6", ["F32 8,2,3"]),
  valid("REPEAT", "BF16 16,4,6", ["BF16 8,2,3"]),
  valid("REPEAT_BACK", "F32 8,2,3", ["F32 16,4,6"]),
  valid("CONCAT", "F32 8,7,2", ["F32 8,4,2", "F32 8,3,2"], [1]),
  valid("CONCAT", "F32 8,4,2", ["F32 0,4,2", "F32 8,4,2"], [0]),
  valid("CONCAT", "Q8_0 64,4", ["Q8_0 32,4", "Q8_0 32,4"], [0]),
  valid("CONCAT", "I64 3,7", ["I64 3,4", "I64 3,3"], [1]),
  valid("SILU_BACK", "F32 8,4", ["F32 8,4", "F32 8,4"]),
  valid("RMS_NORM_BACK", "F32 8,4", ["F32 8,4", "F32 8,4"], [], { 0: 1e-5 }),
  valid("GROUP_NORM", "F32 4,4,8", ["F32 4,4,8"], [2], { 1: 1e-5 }),
  valid("MUL_MAT", "F32 6,5,4,2", ["F32 16,6,2,1", "F32 16,5,4,2"]),
  valid("MUL_MAT", "F32 6,5", ["Q4_K 256,6", "F32 256,5"]),
  valid("MUL_MAT", "F32 6,5", ["F16 16,6", "F16 16,5"]),
  valid("MUL_MAT", "F32 6,5", ["BF16 16,6", "F32 16,5"]),
  valid("MUL_MAT", "F32 6,5", ["Q4_0 64,6", "Q8_0 64,5"]),
  valid("MUL_MAT", "F32 8,9", ["IQ3_S 256,8", "F32 256,9"]),
  // The first factor is a Hadamard matrix, and no elements make a product of zeros.
  valid("MUL_MAT", "F32 16,5,2", ["F32 16,16", "F32 16,5,2"], [0, 1]),
  valid("MUL_MAT", "F32 6,5", ["F32 0,6", "F32 0,5"]),
  valid("MUL_MAT_ID", "F32 6,2,5", ["F32 16,6,4", "F32 16,1,5", "I32 2,5"]),
  valid("MUL_MAT_ID", "F32 6,2,5", ["Q6_K 256,6,4", "F32 256,2,5", "I32 2,5"]),
  valid("OUT_PROD", "F32 6,5,4", ["F32 6,16,2", "F32 5,16,4"]),
  valid("OUT_PROD", "F32 32,5,4", ["Q4_0 32,16,4", "F32 5,16,4"]),
  valid("GET_ROWS", "F32 8,3,2", ["F32 8,5,2", "I32 3,2"]),
  valid("GET_ROWS", "I32 8,3", ["I32 8,5", "I32 3"]),
  valid("GET_ROWS", "F32 256,3", ["Q5_K 256,5", "I32 3"]),
  valid("GET_ROWS_BACK", "F32 8,5", ["F32 8,3", "I32 3"]),
  into(2, valid("SET_ROWS", "F16 8,5,2", ["F32 8,3,2", "I64 3,1", "F16 8,5,2"])),
  into(2, valid("SET_ROWS", "F16 8,5,2", ["F32 8,0,2", "I64 0,1", "F16 8,5,2"])),
  into(2, valid("SET_ROWS", "F32 8,5", ["F32 8,3", "I32 3", "F32 8,5"])),
  valid("DIAG", "F32 8,8,2", ["F32 8,1,2"]),
  valid("DIAG_MASK_INF", "F32 8,8", ["F32 8,8"], [2]),
  valid("DIAG_MASK_ZERO", "F32 8,8", ["F32 8,8"], [2]),
  valid("SOFT_MAX", "F32 8,4,2", ["F32 8,4,2", "F16 8,6,2", "F32 2"], [], { 0: 1, 1: 0.5 }),
  valid("SOFT_MAX", "F32 8,4,2", ["F32 8,4,2"], [], { 0: 1 }),
  valid("SOFT_MAX", "F32 8,4,2,3", ["F32 8,4,2,3", "absent", "F32 2"], [], { 0: 1 }),
  into(0, valid("SOFT_MAX", "F32 8,4,2,3", ["F32 8,4,2,3", "F32 8,4,1,3"], [], { 0: 1 })),
  valid("SOFT_MAX_BACK", "F32 8,4", ["F32 8,4", "F32 8,4"], [], { 0: 1 }),
  valid("ROPE", "F32 8,4,3", ["F32 8,4,3", "I32 3", "F32 4"], [0, 8], ropeFloats),
  valid(
    "ROPE",
    "F32 16,4,3",
    ["F32 16,4,3", "I32 12"],
    [0, 16, 8, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2],
    ropeFloats,
  ),
  // With a factor for each pair that takes part; a view of every second row, the last half of each turned.
  valid("ROPE", "F16 16,4,3", ["F16 16,4,3 2,64,256,768", "I32 3", "F32 8"], [0, 8, 2], ropeFloats),
  valid(
    "ROPE",
    "F32 16,4,3",
    ["F32 16,4,3", "I32 3"],
    [0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8],
    ropeFloats,
  ),
  into(
    0,
    valid(
      "ROPE",
      "F32 16,4,3",
      ["F32 16,4,3", "I32 12"],
      [0, 8, 24, 0, 0, 0, 0, 0, 0, 0, 0, 4, 4],
      ropeFloats,
    ),
  ),
  valid(
    "ROPE",
    "F32 16,4,3",
    ["F32 16,4,3", "I32 12"],
    [0, 16, 40, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 2],
    ropeFloats,
  ),
  valid("ROPE_BACK", "F32 8,4,3", ["F32 8,4,3", "I32 3"], [0, 8], ropeFloats),
  ...["F32", "F16"].map((type) =>
    valid("CONV_TRANSPOSE_1D", "F32 13,5", [`${type} 3,5,2`, "F32 6,2"], [2, 0, 1]),
  ),
  valid("IM2COL", "F16 27,6,6,2", ["F16 3,3,3,5", "F32 8,8,3,2"], [1, 1, 0, 0, 1, 1, 1]),
  valid("IM2COL", "F32 9,10,2", ["F16 3,3,5", "F32 10,3,2"], [1, 0, 1, 0, 1, 0, 0]),
  valid("IM2COL", "F32 27,6,6,2", ["BF16 3,3,3,5", "F32 8,8,3,2"], [1, 1, 0, 0, 1, 1, 1]),
  valid("IM2COL", "F16 27,6,6,2", ["F16 3,3,3,5", "F16 8,8,3,2"], [1, 1, 0, 0, 1, 1, 1]),
  // A depth-wise convolution over one dimension; rows of a larger image.
  valid("IM2COL", "F16 3,10,4", ["F16 3,1,4", "F32 10,1,4 4,64,64,256"], [1, 0, 1, 0, 1, 0, 0]),
  valid("IM2COL_BACK", "F32 8,8,3,2", ["F32 27,6,6,2", "F32 3,3,3,5"], [1, 1, 0, 0, 1, 1, 1]),
  valid(
    "IM2COL_3D",
    "F32 54,6,6,12",
    ["F32 3,3,3,4", "F32 8,8,8,4"],
    [1, 1, 1, 0, 0, 0, 1, 1, 1, 2],
  ),
  valid(
    "IM2COL_3D",
    "F16 54,6,6,12",
    ["F16 3,3,3,4", "F32 8,8,8,4"],
    [1, 1, 1, 0, 0, 0, 1, 1, 1, 2],
  ),
  ...["F32", "F16", "BF16"].map((type) =>
    valid("COL2IM_1D", `${type} 11,2`, [`${type} 6,5`], [2, 2, 0]),
  ),
  valid("CONV_2D", "F32 6,6,5,2", ["F32 3,3,3,5", "F32 8,8,3,2"], [1, 1, 0, 0, 1, 1]),
  // An image whose channels lie next to each other.
  valid("CONV_2D", "F32 6,6,5,2", ["F16 3,3,3,5", "F32 8,8,3,2 12,96,4,768"], [1, 1, 0, 0, 1, 1]),
  valid(
    "CONV_3D",
    "F32 6,6,6,10",
    ["F32 3,3,3,15", "F32 8,8,8,6"],
    [1, 1, 1, 0, 0, 0, 1, 1, 1, 3, 2, 5],
  ),
  valid(
    "CONV_3D",
    "F32 6,6,6,10",
    ["F16 3,3,3,15", "F32 8,8,8,6"],
    [1, 1, 1, 0, 0, 0, 1, 1, 1, 3, 2, 5],
  ),
  valid("CONV_2D_DW", "F32 6,6,3,2", ["F32 3,3,1,3", "F32 8,8,3,2"], [1, 1, 0, 0, 1, 1]),
  // All with channels next to each other.
  valid(
    "CONV_2D_DW",
    "F32 6,6,3,2 12,72,4,432",
    ["F16 3,3,1,3 6,18,6,2", "F32 8,8,3,2 12,96,4,768"],
    [1, 1, 0, 0, 1, 1],
  ),
  ...["F16", "F32"].flatMap((type) => [
    valid("CONV_TRANSPOSE_2D", "F32 9,9,5,2", [`${type} 3,3,5,3`, "F32 4,4,3,2"], [2]),
    valid("POOL_1D", "F32 4,3", [`${type} 8,3`], [0, 2, 2, 0]),
    valid("POOL_2D", "F32 4,4,3,2", [`${type} 8,8,3,2`], [1, 2, 2, 2, 2, 0, 0]),
  ]),
  valid("POOL_2D_BACK", "F32 8,8,3", ["F32 4,4,3", "F32 8,8,3"], [1, 2, 2, 2, 2, 0, 0]),
  valid("UPSCALE", "F32 8,8,3", ["F32 4,4,3"], [0]),
  valid("PAD", "F32 11,6,2", ["F32 8,4,2"], [1, 2, 2]),
  valid("PAD_REFLECT_1D", "F32 11,4", ["F32 8,4"], [1, 2]),
  valid("ROLL", "F32 8,4", ["F32 8,4"], [3, -1]),
  valid("ARANGE", "F32 5", [], [], { 0: 0, 1: 10, 2: 2 }),
  valid("TIMESTEP_EMBEDDING", "F32 16,3", ["F32 3"], [16, 10000]),
  valid("ARGSORT", "I32 8,4", ["F32 8,4"], [1]),
  valid("TOP_K", "I32 3,4", ["F32 8,4"]),
  valid("TRI", "F32 8,8", ["F32 8,8"], [1]),
  valid(
    "FLASH_ATTN_EXT",
    "F32 64,8,3,2",
    ["F32 64,3,8,2", "F16 64,32,2,2", "F16 64,32,2,2", "F16 32,3,1,2", "F32 8"],
    [],
    { 0: 0.125 },
  ),
  ...cacheTypes.map((type) => attention(type, type)),
  ...["Q4_0", "F16", "BF16"].map((type) => attention("Q8_0", type)),
  attention("F16", "Q8_0"),
  // One token over many keys, which threads share, with ALiBi; many tokens, in tiles; heads of values of another size.
  valid(
    "FLASH_ATTN_EXT",
    "F32 64,4,1",
    ["F32 64,1,4", "F16 64,600,2", "F16 64,600,2", "F16 600,1"],
    [],
    { 0: 0.125, 1: 8, 2: 30 },
  ),
  valid(
    "FLASH_ATTN_EXT",
    "F32 64,2,70",
    ["F32 64,70,2", "F32 64,96,1", "F32 64,96,1", "absent", "F32 2"],
    [],
    { 0: 0.125 },
  ),
  valid("FLASH_ATTN_EXT", "F32 64,2,5", ["F32 96,5,2", "F16 96,32", "F16 64,32 2,192,6144,6144"]),
  valid("SSM_CONV", "F32 8,5,2", ["F32 8,8,2", "F32 4,8"]),
  valid(
    "SSM_SCAN",
    "F32 1280",
    [
      "F32 16,4,8,2",
      "F32 4,8,4,2",
      "F32 8,4,2",
      "F32 1,8",
      "F32 16,2,4,2",
      "F32 16,2,4,2",
      "I32 2",
    ],
    [1],
  ),
  // Mamba-1, with a factor for each element of the state, and views of one projection.
  valid(
    "SSM_SCAN",
    "F32 160",
    [
      "F32 16,1,8,3",
      "F32 1,8,4,1",
      "F32 8,4,1",
      "F32 16,8",
      "F32 16,1,4,1 4,64,160,640",
      "F32 16,1,4,1 4,64,160,640",
      "I32 1",
    ],
    [1],
  ),
  // Mamba-2 that can go back three tokens.
  valid(
    "SSM_SCAN",
    "F32 3328",
    [
      "F32 16,4,8,2",
      "F32 4,8,4,2 4,16,192,768",
      "F32 8,4,2",
      "F32 1,8",
      "F32 16,2,4,2 4,64,192,768",
      "F32 16,2,4,2 4,64,192,768",
      "I32 2",
    ],
    [3],
  ),
  valid("WIN_PART", "F32 8,4,4,6", ["F32 8,10,7"], [3, 2, 4]),
  valid("WIN_UNPART", "F32 8,10,7", ["F32 8,4,4,6"], [4]),
  valid("GET_REL_POS", "F16 8,4,4", ["F16 8,7"]),
  valid("GET_REL_POS", "F16 8,4,4", ["BF16 8,7"]),
  valid("ADD_REL_POS", "F32 16,12,5", ["F32 16,12,5", "F32 4,3,4,5", "F32 4,3,4,5"]),
  valid("UNARY", "F32 8,4", ["F32 8,4"], [10]),
  valid("UNARY", "BF16 8,4", ["BF16 8,4"], [6]),
  valid("UNARY", "F16 8,4", ["F16 8,4"], [17]),
  valid("RWKV_WKV6", "F32 128,132", [
    "F32 64,2,4",
    "F32 64,2,4",
    "F32 64,2,4",
    "F32 64,2",
    "F32 64,2,4",
    "F32 8192,2",
  ]),
  valid(
    "GATED_LINEAR_ATTN",
    "F32 128,132",
    ["F32 64,2,4", "F32 64,2,4", "F32 64,2,4", "F32 64,2,4", "F32 8192,2"],
    [],
    { 0: 1 },
  ),
  valid("RWKV_WKV7", "F32 128,132", [
    "F32 64,2,4",
    "F32 64,2,4",
    "F32 64,2,4",
    "F32 64,2,4",
    "F32 64,2,4",
    "F32 64,2,4",
    "F32 8192,2",
  ]),
  valid("SOLVE_TRI", "F32 5,8,2", ["F32 8,8,2", "F32 5,8,2"]),
  valid(
    "GATED_DELTA_NET",
    "F32 256,136",
    ["F32 64,2,4,2", "F32 64,2,4,2", "F32 64,4,4,2", "F32 1,4,4,2", "F32 1,4,4,2", "F32 64,64,4,2"],
    [1],
  ),
  // A gate for each channel, keys for two heads each, the last three states.
  valid(
    "GATED_DELTA_NET",
    "F32 128,200",
    [
      "F32 32,2,4,2",
      "F32 32,2,4,2",
      "F32 32,4,4,2",
      "F32 32,4,4,2",
      "F32 1,4,4,2",
      "F32 32,32,4,2",
    ],
    [3],
  ),
  ...["F16", "F32", "BF16", "Q8_0", "Q4_0"].map((type) =>
    valid("LIGHTNING_INDEXER", "F32 6,3,1,2", [
      "F32 64,4,3,2",
      `${type} 64,1,6,2`,
      "F32 4,3,1,2",
      "F16 6,3,1,1",
    ]),
  ),
  valid("DSV4_HC_COMB", "F32 4,4,3", ["F32 24,3", "F32 3", "F32 24"], [0, 2], { 0: 1e-5 }),
  valid("DSV4_HC_PRE", "F32 8,3", ["F32 8,4,3", "F32 4,3"], [], { 0: 1 }),
  valid("DSV4_HC_PRE", "F32 8,3", ["F32 8,4,3", "F32 8,4,3"], [0, 1], { 0: 1 }),
  valid("DSV4_HC_POST", "F32 8,4,3", ["F32 8,3", "F32 8,4,3", "F32 4,3", "F32 4,4,3"]),
  valid("DSV4_HC_POST", "F32 8,4,3", ["F32 8,3", "F32 8,4,3", "F32 4,3"]),
  valid("CROSS_ENTROPY_LOSS", "F32 1", ["F32 8,4", "F32 8,4"]),
  valid("CROSS_ENTROPY_LOSS_BACK", "F32 8,4", ["F32 1", "F32 8,4", "F32 8,4"]),
  into(
    0,
    valid("OPT_STEP_ADAMW", "F32 8,4", ["F32 8,4", "F32 8,4", "F32 8,4", "F32 8,4", "F32 7"]),
  ),
  into(0, valid("OPT_STEP_SGD", "F32 8,4", ["F32 8,4", "F32 8,4", "F32 2"])),
  valid("GLU", "F32 8,4", ["F32 16,4"], [2]),
  valid("GLU", "F32 8,4", ["F32 8,4", "F32 8,4"], [2]),
  valid("GLU", "F32 8,4", ["F32 8,4", "F32 8,4"], [3]),
  valid("GLU", "F16 8,4", ["F16 16,4"], [5]),
]

/** Room for a tensor of any valid node. */
const TENSOR_BYTES = 256 * 1024

/** Bytes that the tensors of a valid node need. */
export const VALID_NODE_BYTES = 9 * TENSOR_BYTES

/** `nb` of a contiguous tensor. */
export const denseStrides = (type: TypeInfo, ne: readonly number[]): number[] => {
  const nb = [type.typeSize, (ne[0]! / type.blockSize) * type.typeSize]
  nb.push(nb[1]! * ne[1]!)
  nb.push(nb[2]! * ne[2]!)
  return nb
}

const tensorOf = (text: TensorText, id: number, buffer: TestBuffer): RpcTensor => {
  const [typeText, dimensions, strides] = text.split(" ") as [string, string, string?]
  const type = types.find((candidate) => candidate.id === typeId(typeText))!
  const ne = [1, 1, 1, 1]
  dimensions.split(",").forEach((dimension, index) => {
    ne[index] = Number(dimension)
  })
  const nb = strides === undefined ? denseStrides(type, ne) : strides.split(",").map(Number)
  const sizeBytes = Math.max(...ne.map((count, dim) => count * nb[dim]!))
  if (sizeBytes > TENSOR_BYTES) throw new Error(`${text} is larger than ${TENSOR_BYTES} bytes`)
  const data = buffer.basePtr + BigInt((id - 1) * TENSOR_BYTES)
  return { ...ABSENT_TENSOR, id: BigInt(id), type: type.id, buffer: buffer.remotePtr, ne, nb, data }
}

/** The tensors of a node in a buffer: its sources with ids from 1 on, then the node. */
export const tensorsOf = (node: ValidNode, buffer: TestBuffer): RpcTensor[] => {
  const inputs = node.sources
    .filter((text) => text !== "result" && text !== "absent")
    .map((text, index) => tensorOf(text, index + 1, buffer))
  const params = new Int32Array(16)
  params.set(node.params ?? [])
  const floats = new Float32Array(params.buffer)
  for (const [index, value] of Object.entries(node.floats ?? {})) floats[Number(index)] = value
  const id = inputs.length + 1
  let next = 1
  const ids = node.sources.map((text) => (text === "absent" ? 0 : text === "result" ? id : next++))
  const over = node.over === undefined ? {} : placeOf(inputs[node.over]!)
  const result = {
    ...tensorOf(node.result, id, buffer),
    ...over,
    op: newestOpId(node.op),
    opParams: [...params],
    flags: TensorFlag.COMPUTE,
    src: sources(...ids),
  }
  return [...inputs, result]
}

/** What a view of a whole tensor has of it. */
const placeOf = ({ id, data }: RpcTensor) => ({ viewSrc: id, data })
