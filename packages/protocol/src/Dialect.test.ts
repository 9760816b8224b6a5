import { describe, expect, test } from "bun:test"
import fc from "fast-check"
import { requestOf, requests } from "../fixtures/arbitraries.ts"
import {
  Command,
  commonNumbering,
  Dialect,
  encodeRequest,
  encodeResponse,
  Fnv1a64,
  findVersion,
  formatVersion,
  libraryNumbering,
  type MessageName,
  type NumberMap,
  newest,
  PayloadKind,
  type ProtocolSpec,
  RpcTensor,
  versions,
} from "./index.ts"

type Names = readonly string[]

const names = Object.keys(Command) as MessageName[]

const size = fc.oneof(
  fc.nat(5000),
  fc.maxSafeNat().map((value) => Math.floor(value / 2)),
)
const half = fc.nat(0xffff_ffff)
const start = fc.nat(300)

const tensorBytes = (value: RpcTensor): Uint8Array => {
  const bytes = new Uint8Array(RpcTensor.size)
  RpcTensor.encode(value, new DataView(bytes.buffer), 0)
  return bytes
}

/** What `write` puts at `offset`; it must end where it says. */
const written = (
  offset: number,
  sizeBytes: number,
  write: (target: Uint8Array) => number,
): Uint8Array => {
  const target = new Uint8Array(offset + sizeBytes).fill(0xaa)
  expect(write(target)).toBe(target.length)
  expect(target.subarray(0, offset).every((byte) => byte === 0xaa)).toBe(true)
  return target.subarray(offset)
}

for (const spec of versions) {
  const dialect = new Dialect(spec)

  describe(`the writers of ${formatVersion(spec.version)} emit what its tables emit`, () => {
    test("SET_TENSOR", () => {
      fc.assert(
        fc.property(
          requests.SET_TENSOR,
          fc.constantFrom<0 | 1>(0, 1),
          ...[size, start],
          (value, cacheFlag, at, offset) => {
            const whole = encodeRequest(
              Command.SET_TENSOR,
              { ...value, cacheFlag, offsetBytes: BigInt(at) },
              spec,
            )
            const { data } = value
            const tensor = tensorBytes(value.tensor)
            const bytes = dialect.setTensorRequestBytes
            expect(bytes).toBe(whole.length - data.length)
            const prefix = written(offset, bytes, (target) =>
              dialect.writeSetTensorPrefix(
                target,
                ...([offset, tensor, cacheFlag, at, data.length] as const),
              ),
            )
            expect(prefix).toEqual(whole.subarray(0, bytes))
          },
        ),
      )
    })

    test("SET_TENSOR_HASH", () => {
      fc.assert(
        fc.property(requests.SET_TENSOR_HASH, size, fc.uint8Array(), (value, at, data) => {
          const hash = new Fnv1a64().update(data)
          const whole = encodeRequest(
            Command.SET_TENSOR_HASH,
            { tensor: value.tensor, offsetBytes: BigInt(at), hash: hash.digest() },
            spec,
          )
          const [low, high] = [hash.digestLo(), hash.digestHi()]
          const request = written(3, whole.length, (target) =>
            dialect.writeSetTensorHash(target, 3, tensorBytes(value.tensor), at, low, high),
          )
          expect(request).toEqual(whole)
        }),
      )
    })

    test("GET_TENSOR", () => {
      fc.assert(
        fc.property(requests.GET_TENSOR, size, size, ({ tensor }, at, count) => {
          const value = { tensor, offsetBytes: BigInt(at), sizeBytes: BigInt(count) }
          const whole = encodeRequest(Command.GET_TENSOR, value, spec)
          const request = written(5, whole.length, (target) =>
            dialect.writeGetTensor(target, 5, tensorBytes(tensor), at, count),
          )
          expect(request).toEqual(whole)
        }),
      )
    })

    if (dialect.has("GRAPH_RECOMPUTE")) {
      test("GRAPH_RECOMPUTE", () => {
        fc.assert(
          fc.property(half, half, half, start, (device, low, high, offset) => {
            const value = { device, uid: (BigInt(high) << 32n) + BigInt(low) }
            const whole = encodeRequest(Command.GRAPH_RECOMPUTE, value, spec)
            expect(dialect.graphRecomputeBytes).toBe(whole.length)
            const request = written(offset, whole.length, (target) =>
              dialect.writeGraphRecompute(target, offset, device, low, high),
            )
            expect(request).toEqual(whole)
          }),
        )
      })
    }
  })

  describe(`the sizes of ${formatVersion(spec.version)} are its tables'`, () => {
    for (const name of names) {
      const command = Command[name]
      const entry = spec.commands[name]

      if (entry === undefined) {
        test(`${name} does not exist`, () => {
          expect(dialect.has(name)).toBe(false)
          expect(dialect.requestKinds[command]).toBe(PayloadKind.UNKNOWN)
          expect(dialect.requestBytes[command]).toBe(0)
          expect(dialect.responseBytes[command]).toBe(-1)
        })
        continue
      }

      test(name, () => {
        expect(dialect.has(name)).toBe(true)
        const kind = dialect.requestKinds[command]
        const request = dialect.requestBytes[command]!
        fc.assert(
          fc.property(requestOf(name, spec) as fc.Arbitrary<never>, (value) => {
            const payload = encodeRequest(command, value, spec).length - 9
            const { data, nodes, tensors } = value as {
              data?: Uint8Array
              nodes?: unknown[]
              tensors?: unknown[]
            }
            if (kind === PayloadKind.FIXED) expect(payload).toBe(request)
            else if (kind === PayloadKind.DATA) expect(payload).toBe(request + data!.length)
            else expect(payload).toBe(request + nodes!.length * 8 + tensors!.length * 296)
          }),
          { numRuns: 10 },
        )
        const expectedKind = name.startsWith("SET_TENSOR") && name !== "SET_TENSOR_HASH"
        expect(kind === PayloadKind.DATA).toBe(expectedKind)
        expect(kind === PayloadKind.GRAPH).toBe(name === "GRAPH_COMPUTE")
        expect(dialect.responseBytes[command]).toBe(entry.response?.minSizeBytes ?? -1)
      })
    }
  })
}

test("an acknowledgement is 0 bytes, silence is -1", () => {
  const sizes = (version: string): readonly number[] => {
    const { responseBytes } = new Dialect(findVersion(version)!)
    return [Command.FREE_BUFFER, Command.SET_TENSOR, Command.GRAPH_COMPUTE, Command.GET_TENSOR].map(
      (command) => responseBytes[command]!,
    )
  }
  expect(sizes("3.0.0")).toEqual([0, -1, 1, 0])
  expect(sizes("5.1.0")).toEqual([0, -1, -1, 0])
  expect(sizes("8.0.0")).toEqual([-1, -1, -1, 0])
  const answer = encodeResponse(Command.FREE_BUFFER, undefined, findVersion("5.1.0")!)
  expect(answer).toEqual(new Uint8Array(8))
})

describe("number maps", () => {
  test("between equal builds are the identity", () => {
    const dialect = new Dialect(newest, libraryNumbering)
    expect(dialect.isIdentity).toBe(true)
    for (const map of [dialect.ops, dialect.unaryOps, dialect.gluOps]) {
      expect([...map.toWire]).toEqual([...map.toWire.keys()])
      expect([...map.fromWire]).toEqual([...map.fromWire.keys()])
    }
    expect(dialect.ops.toWire.length).toBe(libraryNumbering.ops.length)
  })

  const pairs = versions.flatMap((spec) =>
    [...spec.numberings, commonNumbering(spec.numberings)].map(
      (numbering): [string, ProtocolSpec, typeof numbering] => [
        `${formatVersion(spec.version)} with ${numbering.name}`,
        ...([spec, numbering] as const),
      ],
    ),
  )
  test.each(pairs)("translate by name: %s", (_, spec, numbering) => {
    const dialect = new Dialect(spec, numbering)
    const { changedOps, narrowerOps } = spec.features
    const kinds: readonly (readonly [NumberMap, Names, Names, Names, Names])[] = [
      [dialect.ops, numbering.ops, libraryNumbering.ops, changedOps, narrowerOps],
      [dialect.unaryOps, numbering.unaryOps, libraryNumbering.unaryOps, [], []],
      [dialect.gluOps, numbering.gluOps, libraryNumbering.gluOps, [], []],
    ]
    let isSame = true
    for (const [map, theirs, ours, changed, narrower] of kinds) {
      const unsent = [...changed, ...narrower]
      expect(map.toWire.length).toBe(ours.length)
      expect(map.fromWire.length).toBe(theirs.length)
      ours.forEach((name, local) => {
        const wire = map.toWire[local]!
        if (wire !== local) isSame = false
        if (unsent.includes(name) || !theirs.includes(name)) expect(wire).toBe(-1)
        else expect([name, map.fromWire[wire]]).toEqual([theirs[wire]!, local])
      })
      theirs.forEach((name, wire) => {
        const local = map.fromWire[wire]!
        const isUsable = ours.includes(name) && !changed.includes(name)
        if (!isUsable) expect(local).toBe(-1)
        else
          expect([ours[local], map.toWire[local]]).toEqual([
            name,
            narrower.includes(name) ? -1 : wire,
          ])
      })
      if (theirs.length !== ours.length) isSame = false
    }
    expect(dialect.isIdentity).toBe(isSame)
    for (const { id } of libraryNumbering.types) {
      const known = numbering.types.some((type) => type.id === id)
      expect(dialect.knowsType[id]).toBe(known ? 1 : 0)
    }
  })

  test("an empty name of the local side has no number either", () => {
    const [first, second] = [versions.at(-1)!, versions.at(-2)!]
    const local = commonNumbering([first.numberings[0]!, second.numberings.at(-1)!])
    const { ops } = new Dialect(first, undefined, local)
    local.ops.forEach((name, id) => {
      if (name === "") expect(ops.toWire[id]).toBe(-1)
    })
  })
})

test("rules of parameters name the local ggml's numbers", () => {
  for (const spec of versions) {
    const { limits, fills } = new Dialect(spec)
    expect(limits.map(({ rule }) => rule)).toEqual([...spec.features.limits])
    expect(fills.map(({ rule }) => rule)).toEqual([...spec.features.fills])
    for (const { op, rule } of [...limits, ...fills]) {
      expect(libraryNumbering.ops[op]).toBe(rule.op)
    }
  }
})
