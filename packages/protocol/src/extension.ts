/*
 * What this project adds to the protocol between its own clients and servers. Nothing of it is ever in a place that an
 * upstream peer reads.
 */

/**
 * What servers of this project say in HELLO's `extension`: the low four bits are a level, the others flags. A level
 * includes those below it; at level 0, upstream's, the flags mean nothing.
 */
export const HelloExtension = {
  /** What these packages speak: the flags. */
  LEVEL: 1,
  LEVEL_MASK: 0x0f,
  /** The server has no cache: it knows no weight by its hash, and hashing one for it is time lost. */
  NO_CACHE: 0x10,
  /** On every device of the server a tensor takes just its own bytes: GET_ALLOC_SIZE tells nothing new. */
  PLAIN_SIZES: 0x20,
} as const

/**
 * Name of the tensors in the graphs by which a client finds out how a server's build numbers operations: several builds take
 * such a graph, by design. Of ours, a server that cannot tell its client's build then keeps to one.
 */
export const NUMBERING_PROBE = "ggml-rpc numbering probe"
