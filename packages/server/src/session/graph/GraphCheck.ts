import { ptr } from "bun:ffi"
import {
  type Dialect,
  extensionCommands,
  type GraphFormat,
  ProtocolError,
  TensorFlag,
} from "@ggml-rpc/protocol"
import { refuse } from "../errors.ts"
import type { Buffers, SessionBuffer } from "../memory/buffers.ts"
import type { CompiledRule } from "../ops/CompiledRule.ts"
import { OpNode, RESULT } from "../ops/OpNode.ts"
import type { Indices } from "../ops/rule.ts"
import { rules } from "../ops/table.ts"
import { loadedTypeName } from "../spoken.ts"
import { IdTable } from "./IdTable.ts"
import { isNumberingProbe } from "./numberingProbe.ts"
import { describeShape, TensorCheck } from "./TensorCheck.ts"
import {
  byteSize,
  hexU64,
  isZeroU64,
  RECORD_WORDS,
  readU64,
  type Words,
  word,
  writeU64,
} from "./tensorWords.ts"

const SOURCE_COUNT = 10
/** The children of a tensor: its sources, then its view source. `view_src` follows `src` in the record. */
const CHILD_COUNT = SOURCE_COUNT + 1

/** Words of shim/ggml/index_checks.h `index_check`. */
const INDEX_CHECK_WORDS = 3

const WHITE = 0
/** On the stack: its sources are being looked at. */
const GREY = 1
const BLACK = 2

export interface GraphLimits {
  /** See `ServeOptions.allowTraining`. */
  readonly allowTraining: boolean
  /** Nodes of a graph. */
  readonly nodeLimit: number
}

/**
 * Checks a GRAPH_COMPUTE payload and turns it, in place, into what the shim builds a graph from:
 * references become record indexes, buffers and data become native addresses, and records that no node
 * reaches get id 0. Nodes that compute nothing are left out: ggml would look at them to plan the graph. Keeps its tables
 * between graphs; allocates nothing per tensor.
 */
export class GraphCheck {
  readonly #tensor: TensorCheck
  readonly #ids = new IdTable()
  readonly #node = new OpNode()
  #colors = new Uint8Array(1024)
  #stack = new Int32Array(1024)
  /** By record: the next child to look at, while the record is grey. */
  #cursors = new Uint8Array(1024)
  #bufferOf: Array<SessionBuffer | undefined> = []
  #words: Words = new Uint32Array(0)
  #view = new DataView(this.#words.buffer)
  /** Word index of the first record. */
  #start = 0
  /** The record that is being checked. */
  #current = 0

  device = 0
  /** 1-based indexes of the records of the nodes that are left, in execution order; the first `nodeCount` count. */
  nodes = new Uint32Array(1024)
  nodesAddress = ptr(this.nodes) as number
  nodeCount = 0
  tensorCount = 0
  /** Where in the payload the records start, in bytes. */
  recordsOffset = 0
  /** Handles of the buffers that the graph reads or writes. */
  usedBuffers = new Set<number>()
  /** Memory that its largest node takes besides its tensors on a CPU, at most. */
  workBytes = 0
  /** `index_check` of the shim: a node, the source that it indexes with, and what those indices must be below. */
  indexChecks = new Uint32Array(256 * INDEX_CHECK_WORDS)
  indexChecksAddress = ptr(this.indexChecks) as number
  indexCheckCount = 0
  #threadCount = 1
  /** Nothing is computed: a node needs no memory. */
  #isQuestion = false

  readonly #limits: GraphLimits

  constructor(buffers: Buffers, dialect: Dialect, limits: GraphLimits) {
    this.#tensor = new TensorCheck(buffers, dialect)
    this.#limits = limits
  }

  /** How graphs are laid out and numbered from now on. */
  speak(dialect: Dialect): void {
    this.#tensor.dialect = dialect
  }

  /**
   * Checks and rewrites the payload of `sizeBytes` at the start of `words`, to be computed by `threadCount` threads.
   * The fields above describe it afterwards.
   *
   * @throws {ProtocolError}
   */
  prepare(words: Words, sizeBytes: number, deviceCount: number, threadCount: number): void {
    this.#isQuestion = false
    this.#threadCount = threadCount
    const idsAt = this.#begin(words, this.#tensor.dialect.graph, sizeBytes, deviceCount)
    const listedCount = this.nodeCount
    this.nodeCount = 0
    try {
      if (!this.#tensor.dialect.features.computeFlag) this.#flagNodes(listedCount, idsAt)
      for (let node = 0; node < listedCount; node++) this.#visitNode(node, idsAt + node * 2)
    } catch (error) {
      throw error instanceof ProtocolError ? this.#located(error) : error
    }
    this.#end()
  }

  /**
   * The same for nodes of which the client only asks whether they could be computed. Those that no graph may have are
   * `false` in the answer.
   *
   * @throws {ProtocolError} where the request itself makes no sense
   */
  prepareQuestion(words: Words, sizeBytes: number, deviceCount: number): readonly boolean[] {
    this.#isQuestion = true
    const { request } = extensionCommands.DEVICE_SUPPORTS
    const idsAt = this.#begin(words, request, sizeBytes, deviceCount)
    if (this.nodeCount > this.tensorCount) {
      refuse("n_nodes", `must be at most the tensor count ${this.tensorCount}`, this.nodeCount)
    }
    const valid: boolean[] = []
    try {
      for (let node = 0; node < this.nodeCount; node++) {
        const index = this.#reachNode(node, idsAt + node * 2)
        this.nodes[node] = index + 1
        valid.push(this.#isComputable(node, index))
      }
    } catch (error) {
      throw error instanceof ProtocolError ? this.#located(error) : error
    }
    this.#end()
    return valid
  }

  #isComputable(node: number, index: number): boolean {
    try {
      this.#takeOperation(node, index)
      return true
    } catch (error) {
      if (error instanceof ProtocolError) return false
      throw error
    }
  }

  /** Where the ids of the nodes begin, as a word. */
  #begin(words: Words, format: GraphFormat, sizeBytes: number, deviceCount: number): number {
    this.#open(words)
    const layout = format.parse(this.#view, sizeBytes)
    if (layout.device >= deviceCount) {
      refuse("device", `must be below the device count ${deviceCount}`, layout.device)
    }
    const { nodeLimit } = this.#limits
    if (layout.nodeCount > nodeLimit) {
      refuse("n_nodes", `must be at most ${nodeLimit} on this server`, layout.nodeCount)
    }
    this.#start = layout.tensorsOffset / 4
    this.device = layout.device
    this.nodeCount = layout.nodeCount
    this.tensorCount = layout.tensorCount
    this.recordsOffset = layout.tensorsOffset
    this.usedBuffers = new Set()
    this.workBytes = 0
    this.indexCheckCount = 0
    this.#reserve(layout.nodeCount, layout.tensorCount)
    this.#ids.fill(words, this.#start + word.id, RECORD_WORDS, layout.tensorCount)
    return layout.nodeIdsOffset / 4
  }

  #end(): void {
    this.#dropUnreached()
    this.#bufferOf.length = 0
  }

  /** JavaScriptCore counts all of a buffer for each view of it: new ones for every graph would call its collector. */
  #open(words: Words): void {
    if (words === this.#words) return
    this.#words = words
    this.#view = new DataView(words.buffer, words.byteOffset)
    this.#node.open(words)
  }

  /** Names the record in a refusal of the tensor check, which only says `tensor`. */
  #located(error: ProtocolError): ProtocolError {
    if (!error.field.startsWith("tensor.")) return error
    const { reason, value } = error
    const field = `tensors[${this.#current}]${error.field.slice("tensor".length)}`
    return new ProtocolError({ field, reason, value })
  }

  #reserve(nodeCount: number, tensorCount: number): void {
    if (this.nodes.length < nodeCount) {
      this.nodes = new Uint32Array(nodeCount)
      this.nodesAddress = ptr(this.nodes) as number
    }
    if (this.#colors.length < tensorCount) {
      this.#colors = new Uint8Array(tensorCount)
      this.#cursors = new Uint8Array(tensorCount)
      this.#stack = new Int32Array(tensorCount)
    } else {
      this.#colors.fill(WHITE, 0, tensorCount)
    }
  }

  /** The record of a node. */
  #find(node: number, idAt: number): number {
    const words = this.#words
    if (isZeroU64(words, idAt)) refuse(`nodes[${node}]`, "must not be 0")
    const index = this.#ids.find(words[idAt]!, words[idAt + 1]!)
    if (index < 0) refuse(`nodes[${node}]`, "is not among the tensors", hexU64(words, idAt))
    return index
  }

  /** A client that flags no node computes all of them. */
  #flagNodes(nodeCount: number, idsAt: number): void {
    const words = this.#words
    const flagsAt = (node: number): number =>
      this.#start + this.#find(node, idsAt + node * 2) * RECORD_WORDS + word.flags
    for (let node = 0; node < nodeCount; node++) {
      if ((words[flagsAt(node)]! & TensorFlag.COMPUTE) !== 0) return
    }
    for (let node = 0; node < nodeCount; node++) {
      const at = flagsAt(node)
      words[at] = words[at]! | TensorFlag.COMPUTE
    }
  }

  #visitNode(node: number, idAt: number): void {
    const index = this.#reachNode(node, idAt)
    if (this.#takeOperation(node, index)) this.nodes[this.nodeCount++] = index + 1
  }

  /** The record of a node, when all below it is checked. */
  #reachNode(node: number, idAt: number): number {
    const index = this.#find(node, idAt)
    if (this.#colors[index] === WHITE) this.#reach(index)
    return index
  }

  /** Visits everything below a record, sources before users, with a stack of its own. */
  #reach(root: number): void {
    const colors = this.#colors
    const stack = this.#stack
    const cursors = this.#cursors
    let depth = 0
    this.#enter(root)
    stack[depth++] = root
    while (depth > 0) {
      const index = stack[depth - 1]!
      const child = cursors[index]!
      if (child === CHILD_COUNT) {
        colors[index] = BLACK
        this.#leave(index)
        depth--
        continue
      }
      cursors[index] = child + 1
      const next = this.#resolve(index, child)
      if (next >= 0 && colors[next] === WHITE) {
        this.#enter(next)
        stack[depth++] = next
      }
    }
  }

  /** Checks a record and puts native addresses into it. */
  #enter(index: number): void {
    const words = this.#words
    const at = this.#start + index * RECORD_WORDS
    const tensor = this.#tensor
    this.#current = index
    tensor.check(words, at, "tensor", "optional")
    const { features, fills } = tensor.dialect
    if (!features.useCount) words[at + word.useCount] = 0
    if (fills.length > 0) this.#fill(at)
    const { buffer } = tensor
    this.#bufferOf[index] = buffer
    if (buffer !== undefined) {
      this.usedBuffers.add(buffer.id)
      writeU64(words, at + word.buffer, buffer.native)
      writeU64(words, at + word.data, buffer.nativeBase + tensor.dataOffsetBytes)
    }
    this.#colors[index] = GREY
    this.#cursors[index] = 0
  }

  /** Parameters that the client's version leaves out. */
  #fill(at: number): void {
    const words = this.#words
    for (const { op, rule } of this.#tensor.dialect.fills) {
      if (words[at + word.op] !== op) continue
      const param = at + word.opParams + rule.slot
      if (words[param] === rule.from) words[param] = rule.to
    }
  }

  /** Replaces a reference by the 1-based index of its record; returns that record, or -1 for none. */
  #resolve(index: number, child: number): number {
    const words = this.#words
    const at = this.#start + index * RECORD_WORDS + word.src + child * 2
    const low = words[at]!
    const high = words[at + 1]!
    if (low === 0 && high === 0) return -1
    const found = this.#ids.find(low, high)
    if (found < 0) {
      refuse(this.#childName(index, child), "is not among the tensors", hexU64(words, at))
    }
    if (this.#colors[found] === GREY && (found !== index || child === SOURCE_COUNT)) {
      // A cast names itself as its second source; every other cycle would have no first tensor.
      refuse(this.#childName(index, child), "closes a cycle", hexU64(words, at))
    }
    words[at] = found + 1
    words[at + 1] = 0
    return found
  }

  /** What can only be said of a record once the one it views is known. */
  #leave(index: number): void {
    const words = this.#words
    const at = this.#start + index * RECORD_WORDS
    const viewed = words[at + word.viewSrc]! - 1
    if (viewed < 0) return
    const buffer = this.#bufferOf[viewed]
    const own = this.#bufferOf[index]
    if (buffer === undefined || own === undefined) return
    if (own !== buffer) {
      refuse(`tensors[${index}].buffer`, "must be that of the viewed tensor", own.id)
    }
    // Some backends address a view by its source and `view_offs` instead of by `data`.
    const viewOffset = readU64(words, at + word.viewOffset)
    const viewedData = readU64(words, this.#start + viewed * RECORD_WORDS + word.data)
    const start = viewedData - buffer.nativeBase
    if (viewOffset < 0 || start + viewOffset + byteSize(words, at) > buffer.sizeBytes) {
      refuse(
        `tensors[${index}].view_offs`,
        `leads out of the ${buffer.sizeBytes} bytes of the viewed tensor's buffer`,
        viewOffset < 0 ? "2^53 or more" : viewOffset,
      )
    }
    if (viewedData + viewOffset !== readU64(words, at + word.data)) {
      refuse(
        `tensors[${index}].view_offs`,
        "must lead from the viewed tensor's data to this one's",
        viewOffset,
      )
    }
  }

  /** Checks what a node computes; false when that is nothing. */
  #takeOperation(node: number, index: number): boolean {
    const words = this.#words
    const at = this.#start + index * RECORD_WORDS
    const rule = rules[words[at + word.op]!]!
    if (rule.isView) return true
    if (rule.refusal !== "") refuse(`tensors[${index}].op`, rule.refusal, rule.name)
    // ggml refuses nobody an empty result, whatever the shapes of its sources.
    const isEmpty = byteSize(words, at) === 0
    const isFlagged = this.#isQuestion || (words[at + word.flags]! & TensorFlag.COMPUTE) !== 0
    if (isEmpty || !isFlagged) return false
    if (rule.isTraining && !this.#limits.allowTraining && !isNumberingProbe(words, at)) {
      refuse(`tensors[${index}].op`, "is for training, which --allow-training allows", rule.name)
    }
    this.#takeSources(node, index, rule)
    const wrong = rule.judge(this.#node, !this.#isQuestion)
    if (wrong !== "") {
      refuse(`tensors[${index}]`, `cannot be computed: ${wrong}`, this.#describe(index, rule))
    }
    for (const source of rule.reaching) this.#checkReach(index, source, rule)
    if (rule.work !== undefined) {
      this.workBytes = Math.max(this.workBytes, rule.work(this.#node, this.#threadCount))
    }
    if (this.#isQuestion) return true
    for (const indices of rule.indices) this.#addIndexCheck(indices)
    return true
  }

  /** Opens a node for its rule: it has memory, and so has all that it reads. */
  #takeSources(node: number, index: number, rule: CompiledRule): void {
    const words = this.#words
    const at = this.#start + index * RECORD_WORDS
    if (!this.#isQuestion) this.#checkMemory(index, node, "computes")
    this.#node.set(RESULT, at)
    for (let source = 0; source < SOURCE_COUNT; source++) {
      const sourceAt = at + word.src + source * 2
      if (source >= rule.sourceCount) words[sourceAt] = 0
      const child = words[sourceAt]! - 1
      this.#node.set(source, child < 0 ? -1 : this.#start + child * RECORD_WORDS)
      if (child < 0) {
        if (source >= rule.sourceCount || rule.mayLack(source)) continue
        refuse(`tensors[${index}].src[${source}]`, `is 0, but ${rule.name} reads it`)
      }
      if (!this.#isQuestion) this.#checkMemory(child, node, "reads")
    }
  }

  /** What only the contents of a source tell, right before the node runs. */
  #addIndexCheck({ source, into, dim }: Indices): void {
    if (this.#node.elements(source) === 0) return
    const first = this.indexCheckCount++ * INDEX_CHECK_WORDS
    if (first === this.indexChecks.length) this.#growIndexChecks()
    this.indexChecks[first] = this.nodeCount
    this.indexChecks[first + 1] = source
    this.indexChecks[first + 2] = this.#node.ne(into, dim)
  }

  #growIndexChecks(): void {
    const grown = new Uint32Array(this.indexChecks.length * 2)
    grown.set(this.indexChecks)
    this.indexChecks = grown
    this.indexChecksAddress = ptr(grown) as number
  }

  /** What kernels for CPUs read beyond the elements of a source is memory as well. */
  #checkReach(index: number, source: number, rule: CompiledRule): void {
    if (!this.#node.has(source)) return
    const child = this.#words[this.#start + index * RECORD_WORDS + word.src + source * 2]! - 1
    const buffer = this.#bufferOf[child]
    if (buffer === undefined) return
    const reachBytes = rule.reachBytes(this.#node, source)
    const endOfReading = buffer.nativeBase + buffer.sizeBytes + buffer.tailBytes
    const leftBytes = endOfReading - this.#node.start(source)
    if (reachBytes <= leftBytes) return
    refuse(
      `tensors[${child}]`,
      `is read for ${reachBytes} bytes by ${rule.name}, where its buffer has ${leftBytes} left`,
    )
  }

  /** `ADD ne[4,1,1,1] nb[4,16,16,16] of src[0] F32 ne[…] nb[…], src[1] …`. */
  #describe(index: number, rule: CompiledRule): string {
    const words = this.#words
    const at = this.#start + index * RECORD_WORDS
    const sources: string[] = []
    for (let source = 0; source < SOURCE_COUNT; source++) {
      const child = words[at + word.src + source * 2]! - 1
      if (child < 0) continue
      const childAt = this.#start + child * RECORD_WORDS
      const type = loadedTypeName(words[childAt + word.type]!)
      sources.push(`src[${source}] ${type} ${describeShape(words, childAt)}`)
    }
    const type = loadedTypeName(words[at + word.type]!)
    return `${rule.name} ${type} ${describeShape(words, at)} of ${sources.join(", ")}`
  }

  /** A tensor that a node computes or reads has memory, of the device that runs the graph. */
  #checkMemory(index: number, node: number, does: string): void {
    const buffer = this.#bufferOf[index]
    if (buffer !== undefined) {
      if (buffer.device === this.device) return
      refuse(
        `tensors[${index}].buffer`,
        `is memory of device ${buffer.device}, but node ${node} ${does} this tensor on device ${this.device}`,
      )
    }
    if (byteSize(this.#words, this.#start + index * RECORD_WORDS) > 0) {
      refuse(`tensors[${index}].buffer`, `is 0, but node ${node} ${does} this tensor`)
    }
  }

  #dropUnreached(): void {
    for (let index = 0; index < this.tensorCount; index++) {
      if (this.#colors[index] !== WHITE) continue
      writeU64(this.#words, this.#start + index * RECORD_WORDS + word.id, 0)
    }
  }

  #childName(index: number, child: number): string {
    return `tensors[${index}].${child === SOURCE_COUNT ? "view_src" : `src[${child}]`}`
  }
}
