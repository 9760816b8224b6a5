/** What is changed in a valid node: one field, or the same in all tensors at once so that they still fit. */
import { TensorFlag, TYPE_BLOCK_SIZE, TYPE_SIZE, types } from "@ggml-rpc/protocol"
import type { Random } from "../../packages/server/test/Random.ts"
import { type CaseTensor, makeDense, type NodeCase, tensorName, writesSource } from "./nodeCase.ts"

/** Changes a case; the field's name and what it became, or undefined where there is nothing to change. */
type Mutation = (
  random: Random,
  nodeCase: NodeCase,
) => readonly [field: string, change: string] | undefined

const U32_MAX = 2 ** 32 - 1

/** Near `value`, at the edges of a type, or small. */
const oddNumber = (random: Random, value: number, step = 1): number => {
  const near = [value - step, value + step, value * 2, Math.floor(value / 2), value - 1, value + 1]
  const small = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 33, 64, 100, 255, 256, 257]
  const large = [1023, 4096, 65_535, 65_536, 2 ** 20, 2 ** 24 + 1, 2 ** 30, 2 ** 31 - 1]
  const largest = [2 ** 31, 2 ** 31 + 4, U32_MAX - 3, U32_MAX]
  const kind = random.below(100)
  const from = kind < 45 ? near : kind < 80 ? small : kind < 92 ? large : largest
  return random.pick(from) >>> 0
}

const pickTensor = (random: Random, { tensors, nodes }: NodeCase): number =>
  random.chance(0.35) ? random.pick(nodes) : random.below(tensors.length)

const pickSourceOf = (random: Random, { tensors }: NodeCase, node: number): number => {
  const present = tensors[node]!.record.src.flatMap((id, slot) => (id === 0n ? [] : [slot]))
  return present.length === 0 ? -1 : random.pick(present)
}

const neOfOne: Mutation = (random, nodeCase) => {
  const index = pickTensor(random, nodeCase)
  const { record } = nodeCase.tensors[index]!
  const dim = random.below(4)
  const block = TYPE_BLOCK_SIZE[record.type] || 1
  const others = nodeCase.tensors.flatMap((tensor) => tensor.record.ne)
  const isOther = random.chance(0.3)
  const value = isOther
    ? random.pick(others)
    : oddNumber(random, record.ne[dim]!, dim === 0 ? block : 1)
  record.ne[dim] = value
  const isDense = random.chance(0.6)
  if (isDense) makeDense(record)
  const field = `${tensorName(nodeCase, index)}.ne[${dim}]`
  return [field, `${field}=${value}${isDense ? " dense" : ""}`]
}

/** The same number of elements wherever it was the same before. */
const neOfAll: Mutation = (random, nodeCase) => {
  const { tensors, nodes } = nodeCase
  const values = tensors.flatMap(({ record }) => record.ne).filter((value) => value > 1)
  if (values.length === 0) return undefined
  const from = random.pick(values)
  const doubled = (from * 2) >>> 0
  const to = random.chance(0.9)
    ? random.pick([
        0,
        1,
        2,
        3,
        5,
        7,
        9,
        16,
        17,
        33,
        64,
        65,
        96,
        128,
        256,
        from - 1,
        (from + 1) >>> 0,
        doubled,
      ])
    : oddNumber(random, from)
  for (const { record } of tensors) {
    if (!record.ne.includes(from)) continue
    record.ne.splice(0, 4, ...record.ne.map((value) => (value === from ? to : value)))
    makeDense(record)
  }
  if (random.chance(0.4)) {
    for (const node of nodes) {
      const { opParams } = tensors[node]!.record
      opParams.splice(0, 16, ...opParams.map((value) => (value === from ? to | 0 : value)))
    }
  }
  return ["all ne", `each ne of ${from} is ${to}`]
}

/** One dimension of all tensors that have the same there. */
const dimOfAll: Mutation = (random, nodeCase) => {
  const dim = random.below(4)
  const from = random.pick(nodeCase.tensors).record.ne[dim]!
  const to = random.chance(0.9) ? random.pick([0, 1, 2, 3, 4, 6, 8, 17]) : oddNumber(random, from)
  for (const { record } of nodeCase.tensors) {
    if (record.ne[dim] !== from) continue
    record.ne[dim] = to
    makeDense(record)
  }
  return [`all ne[${dim}]`, `each ne[${dim}] of ${from} is ${to}`]
}

const nbOfOne: Mutation = (random, nodeCase) => {
  const index = pickTensor(random, nodeCase)
  const { record } = nodeCase.tensors[index]!
  const dim = random.below(4)
  const isOther = random.chance(0.3)
  const value = isOther
    ? random.pick(record.nb)
    : oddNumber(random, record.nb[dim]!, TYPE_SIZE[record.type] || 1)
  record.nb[dim] = value
  const field = `${tensorName(nodeCase, index)}.nb[${dim}]`
  return [field, `${field}=${value}`]
}

const permute = (random: Random, four: number[]): readonly [number, number] => {
  const [first, second] = [random.below(4), random.below(4)]
  const kept = four[first]!
  four[first] = four[second]!
  four[second] = kept
  return [first, second]
}

const swapped: Mutation = (random, nodeCase) => {
  const index = pickTensor(random, nodeCase)
  const { record } = nodeCase.tensors[index]!
  const name = tensorName(nodeCase, index)
  const kind = random.below(4)
  if (kind === 0) {
    const dims = permute(random, record.ne)
    makeDense(record)
    return [`${name}.ne swapped`, `${name}.ne of ${dims} swapped, dense`]
  }
  if (kind === 1)
    return [`${name}.nb swapped`, `${name}.nb of ${permute(random, record.nb)} swapped`]
  if (kind === 2)
    return [`${name}.ne swapped`, `${name}.ne of ${permute(random, record.ne)} swapped`]
  const dims = permute(random, record.ne)
  const kept = record.nb[dims[0]]!
  record.nb[dims[0]] = record.nb[dims[1]]!
  record.nb[dims[1]] = kept
  return [`${name} transposed`, `${name} transposed ${dims}`]
}

/** Layouts that views have: rows with a pitch, planes with a pitch, elements apart, dimensions in another order. */
const layout: Mutation = (random, nodeCase) => {
  const index = pickTensor(random, nodeCase)
  const { record } = nodeCase.tensors[index]!
  const { ne, nb } = record
  const name = tensorName(nodeCase, index)
  const unit = TYPE_SIZE[record.type] || 1
  const kind = random.below(6)
  if (kind < 3) {
    const dim = 1 + kind
    const gap = unit * random.pick([1, 2, 4, 16])
    nb[dim] = (nb[dim]! + gap) >>> 0
    for (let next = dim + 1; next < 4; next++) nb[next] = (nb[next - 1]! * ne[next - 1]!) >>> 0
    return [`${name} pitch[${dim}]`, `${name} nb[${dim}] has ${gap} more, those above fit`]
  }
  if (kind === 3) {
    const factor = random.pick([2, 3])
    for (let dim = 0; dim < 4; dim++) nb[dim] = (nb[dim]! * factor) >>> 0
    return [`${name} spread`, `${name} has ${factor} times its strides`]
  }
  if (kind === 4) {
    const from = random.below(4)
    for (let dim = from; dim < 4; dim++) nb[dim] = 0
    return [`${name} stride 0`, `${name} has strides of 0 from nb[${from}] on`]
  }
  const order = [0, 1, 2, 3]
  permute(random, order)
  permute(random, order)
  let next = unit
  for (const dim of order) {
    nb[dim] = next
    next = (next * ne[dim]!) >>> 0
  }
  return [`${name} permuted`, `${name} lies in the order ${order}`]
}

const typeOfOne: Mutation = (random, nodeCase) => {
  const index = pickTensor(random, nodeCase)
  const { record } = nodeCase.tensors[index]!
  const { id, name } = random.pick(types)
  record.type = random.chance(0.98) ? id : random.pick([4, 5, 31, 38, 43, U32_MAX])
  const isDense = random.chance(0.85)
  if (isDense) makeDense(record)
  const field = `${tensorName(nodeCase, index)}.type`
  return [field, `${field}=${name}${isDense ? " dense" : ""}`]
}

/** Another type wherever it was the same before; rows long enough for blocks of any type, if asked. */
const typeOfAll: Mutation = (random, nodeCase) => {
  const from = random.pick(nodeCase.tensors).record.type
  const { id, name, blockSize } = random.pick(types)
  const isFitted = random.chance(0.5)
  for (const { record } of nodeCase.tensors) {
    if (record.type !== from) continue
    record.type = id
    if (isFitted) record.ne[0] = (Math.ceil(record.ne[0]! / blockSize) * blockSize) >>> 0
    makeDense(record)
  }
  return ["all types", `each type ${from} is ${name}${isFitted ? ", rows of whole blocks" : ""}`]
}

const offset: Mutation = (random, nodeCase) => {
  const index = pickTensor(random, nodeCase)
  const tensor = nodeCase.tensors[index]!
  tensor.offsetBytes += random.pick([1, 2, 3, 4, 8, 12, 16, 20, 64, 1000])
  const field = `${tensorName(nodeCase, index)}.data`
  return [field, `${field}+${tensor.offsetBytes}`]
}

const view: Mutation = (random, nodeCase) => {
  const index = pickTensor(random, nodeCase)
  const { record } = nodeCase.tensors[index]!
  record.viewSrc = BigInt(1 + random.below(nodeCase.tensors.length))
  record.viewOffset = BigInt(random.chance(0.6) ? 0 : oddNumber(random, 64, 4))
  const field = `${tensorName(nodeCase, index)}.view_src`
  return [field, `${field}=${record.viewSrc} view_offs=${record.viewOffset}`]
}

const floatBits = new Float32Array(1)
const bits = new Int32Array(floatBits.buffer)

const oddFloats = [0, -0, 1, -1, 0.5, 1e-30, 1e30, -1e30, Number.NaN, Number.POSITIVE_INFINITY]

const param: Mutation = (random, nodeCase) => {
  const { record } = nodeCase.tensors[random.pick(nodeCase.nodes)]!
  const last = record.opParams.findLastIndex((value) => value !== 0)
  const index = random.chance(0.85) ? random.below(Math.max(2, last + 2)) % 16 : random.below(16)
  const before = record.opParams[index]!
  if (random.chance(0.25)) {
    floatBits[0] = random.pick([...oddFloats, Number.NEGATIVE_INFINITY])
    record.opParams[index] = bits[0]!
  } else if (random.chance(0.3)) {
    record.opParams[index] = -random.pick([1, 2, 3, 8, 100, 65_536, 2 ** 30, 2 ** 31 - 1, 2 ** 31])
  } else {
    record.opParams[index] = oddNumber(random, before) | 0
  }
  const field = `op_params[${index}]`
  return [field, `${field}=${record.opParams[index]}`]
}

const flags: Mutation = (random, nodeCase) => {
  const index = pickTensor(random, nodeCase)
  const { record } = nodeCase.tensors[index]!
  record.flags = random.chance(0.5) ? random.below(32) | TensorFlag.COMPUTE : random.below(2 ** 31)
  const field = `${tensorName(nodeCase, index)}.flags`
  return [field, `${field}=${record.flags}`]
}

const sourceMissing: Mutation = (random, nodeCase) => {
  const node = random.pick(nodeCase.nodes)
  const slot = pickSourceOf(random, nodeCase, node)
  if (slot < 0) return undefined
  nodeCase.tensors[node]!.record.src[slot] = 0n
  return [`src[${slot}] missing`, `src[${slot}] is missing`]
}

const sourceReplaced: Mutation = (random, nodeCase) => {
  const node = random.pick(nodeCase.nodes)
  const slot = random.chance(0.7) ? pickSourceOf(random, nodeCase, node) : random.below(10)
  if (slot < 0) return undefined
  const by = random.below(nodeCase.tensors.length)
  const { record } = nodeCase.tensors[node]!
  record.src[slot] = BigInt(by + 1)
  if (writesSource(record.op, slot)) nodeCase.tensors[by]!.isWritten = true
  return [`src[${slot}] replaced`, `src[${slot}] is ${tensorName(nodeCase, by)}`]
}

/** Two tensors in one memory: the same place, or partly. */
const alias: Mutation = (random, nodeCase) => {
  const { tensors } = nodeCase
  if (tensors.length < 2) return undefined
  const first = pickTensor(random, nodeCase)
  const second = random.below(tensors.length)
  if (first === second) return undefined
  const [moved, host] = [tensors[first]!, tensors[second]!]
  moved.memory = host.memory
  const isPartial = random.chance(0.6)
  moved.offsetBytes = host.offsetBytes + (isPartial ? random.pick([1, 4, 8, 16, 32, 64, 100]) : 0)
  const names = [tensorName(nodeCase, first), tensorName(nodeCase, second)]
  const where = isPartial ? `${moved.offsetBytes} bytes into` : "in place of"
  return [`${names[0]} aliases ${names[1]}`, `${names[0]} ${where} ${names[1]}`]
}

const integerTypes = ["I8", "I16", "I32", "I64"]
const isInteger = ({ record }: CaseTensor): boolean =>
  integerTypes.includes(types.find(({ id }) => id === record.type)?.name ?? "")

const elementCount = ({ record }: CaseTensor): number =>
  record.ne[0]! * record.ne[1]! * record.ne[2]! * record.ne[3]!

const oddIndexes = [-1n, -2n, -1000n, 2n, 3n, 5n, 8n, 9n, 1000n, 65_536n, 2n ** 31n - 1n, 2n ** 31n]
const oddLongIndexes = [...oddIndexes, 2n ** 32n, 2n ** 40n, 2n ** 62n, 2n ** 63n, 2n ** 64n - 8n]

/** Numbers in tensors of integers, which are indexes for most operations. */
const indexes: Mutation = (random, nodeCase) => {
  const candidates = nodeCase.tensors.filter(
    (tensor) => isInteger(tensor) && !tensor.isWritten && elementCount(tensor) > 0,
  )
  if (candidates.length === 0) return undefined
  const tensor = random.pick(candidates)
  const value = random.pick(random.chance(0.5) ? oddIndexes : oddLongIndexes)
  const index = random.below(Math.min(elementCount(tensor), 4096))
  tensor.elements.push({ index, value })
  const field = `${tensorName(nodeCase, nodeCase.tensors.indexOf(tensor))} contents`
  return [field, `${field} [${index}]=${value}`]
}

const oddContents: Mutation = (random, nodeCase) => {
  const index = random.below(nodeCase.tensors.length)
  nodeCase.tensors[index]!.contents = "odd"
  const field = `${tensorName(nodeCase, index)} odd contents`
  return [field, field]
}

/** Several nodes only: computed in another order, or one of them twice. */
const order: Mutation = (random, nodeCase) => {
  const { nodes } = nodeCase
  if (nodes.length < 2) return undefined
  if (random.chance(0.5)) {
    nodes.reverse()
    return ["order", "nodes in the wrong order"]
  }
  nodes.push(random.pick(nodes))
  return ["order", "a node twice"]
}

/** More elements than memory could hold, all in the same place. */
const vast: Mutation = (random, nodeCase) => {
  const index = random.below(nodeCase.tensors.length)
  const { record } = nodeCase.tensors[index]!
  const dim = random.below(4)
  const block = TYPE_BLOCK_SIZE[record.type] || 1
  const count = random.pick([2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 24, 2 ** 16 * 3])
  record.ne[dim] = dim === 0 ? count - (count % block) : count
  for (let next = dim; next < 4; next++) record.nb[next] = 0
  const name = tensorName(nodeCase, index)
  return [`${name} vast`, `${name}.ne[${dim}]=${record.ne[dim]}, strides of 0 from nb[${dim}] on`]
}

/** Weights: what is drawn how often. */
const weighted: ReadonlyArray<readonly [number, Mutation]> = [
  [14, neOfOne],
  [12, neOfAll],
  [8, dimOfAll],
  [14, nbOfOne],
  [1, vast],
  [6, swapped],
  [12, layout],
  [7, typeOfOne],
  [7, typeOfAll],
  [3, offset],
  [2, view],
  [12, param],
  [1, flags],
  [2, sourceMissing],
  [3, sourceReplaced],
  [8, alias],
  [9, indexes],
  [2, oddContents],
  [6, order],
]

const choices = weighted.flatMap(([weight, mutation]) =>
  Array.from({ length: weight }, () => mutation),
)

type Twins = readonly [CaseTensor, CaseTensor]

const isTwin = (one: CaseTensor, other: CaseTensor): boolean =>
  one.memory === other.memory &&
  one.offsetBytes === other.offsetBytes &&
  one.record.type === other.record.type &&
  Bun.deepEquals(one.record.ne, other.record.ne) &&
  Bun.deepEquals(one.record.nb, other.record.nb)

/** Each pair of tensors that are the same numbers, as a result that is written over a source. */
const twinsOf = ({ tensors }: NodeCase): readonly Twins[] =>
  tensors.flatMap((one, index) =>
    tensors
      .slice(index + 1)
      .filter((other) => isTwin(one, other))
      .map((other): Twins => [one, other]),
  )

/** The first of two that were the same becomes what the second, of which the result is one, is now. */
const makeTwins = ([one, other]: Twins): void => {
  if (one.memory !== other.memory) return
  one.offsetBytes = other.offsetBytes
  one.record.type = other.record.type
  one.record.ne.splice(0, 4, ...other.record.ne)
  one.record.nb.splice(0, 4, ...other.record.nb)
}

/** Changes one field, now and then two or three. */
export const mutate = (random: Random, nodeCase: NodeCase): NodeCase => {
  const draw = random.below(100)
  const count = draw < 72 ? 1 : draw < 95 ? 2 : 3
  for (let tries = 0; tries < 20 && nodeCase.fields.length < count; tries++) {
    const twins = twinsOf(nodeCase)
    const change = random.pick(choices)(random, nodeCase)
    if (change === undefined) continue
    if (random.chance(0.7)) for (const pair of twins) makeTwins(pair)
    nodeCase.fields.push(change[0])
    nodeCase.changes.push(change[1])
  }
  nodeCase.placing = random.pick(["end", "end", "end", "aligned end", "start"])
  return nodeCase
}
