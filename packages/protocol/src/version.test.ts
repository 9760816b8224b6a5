import { describe, expect, test } from "bun:test"
import {
  CALLBACK_OPS,
  Command,
  commandName,
  commandSpec,
  describeCommand,
  formatVersion,
  gluOpName,
  isMessageId,
  negotiate,
  opId,
  opName,
  ProtocolError,
  typeId,
  typeName,
  unaryOpName,
  V7_0_0,
} from "./index.ts"

const version = (text: string) => {
  const [major, minor, patch] = text.split(".").map(Number)
  return { major: major!, minor: minor!, patch: patch! }
}

describe("negotiate", () => {
  const cases: readonly [server: string, client: string, accepted: boolean][] = [
    ["7.0.0", "7.0.0", true],
    ["7.0.9", "7.0.0", true],
    ["7.0.0", "7.0.9", true],
    ["5.0.0", "5.1.0", true],
    ["5.1.0", "5.0.0", false],
    ["3.0.0", "3.6.1", true],
    ["7.1.0", "7.0.0", false],
    ["6.0.0", "7.0.0", false],
    ["8.0.0", "7.0.0", false],
    ["6.9.9", "7.0.0", false],
  ]
  for (const [server, client, accepted] of cases) {
    test(`a ${client} client ${accepted ? "accepts" : "drops"} a ${server} server`, () => {
      expect(negotiate(version(server), version(client)).accepted).toBe(accepted)
    })
  }

  test("an accepted version is the server's", () => {
    const answer = negotiate(version("5.0.3"), version("5.1.0"))
    expect(answer).toEqual({ accepted: true, version: version("5.0.3") })
  })

  test("a refusal says both versions and which side to update", () => {
    const older = negotiate(version("6.0.0"), version("7.0.0"))
    const newer = negotiate(version("7.1.0"), version("7.0.0"))
    expect(older).toEqual({
      accepted: false,
      reason: "the server speaks protocol 6.0.0, this client 7.0.0; update the server",
    })
    expect(newer).toMatchObject({ reason: expect.stringContaining("update the client") })
  })
})

describe("commands", () => {
  test("every id has its name and back", () => {
    for (const [name, id] of Object.entries(Command)) {
      expect<string | undefined>(commandName(id)).toBe(name)
      expect(isMessageId(id)).toBe(name !== "NONE")
    }
    expect(commandName(19)).toBeUndefined()
    expect(describeCommand(19)).toBe("command 19")
    for (const id of [-1, 18, 0.5, Number.NaN]) expect(isMessageId(id)).toBe(false)
  })

  test("7.0.0 has every command but NONE, and only these are silent", () => {
    const silent = Object.entries(Command)
      .filter(([, id]) => commandSpec(id)?.response === null)
      .map(([name]) => name)
    expect(silent.toSorted()).toEqual([
      "BUFFER_CLEAR",
      "FREE_BUFFER",
      "GRAPH_COMPUTE",
      "GRAPH_RECOMPUTE",
      "INIT_TENSOR",
      "MEMSET_TENSOR",
      "SET_TENSOR",
    ])
    const known = Object.values(Command).filter((id) => commandSpec(id) !== undefined)
    expect(known.length).toBe(18)
    expect(commandSpec(Command.NONE)).toBeUndefined()
  })

  test("a table without a command makes it unknown", () => {
    const { GET_TENSOR, ...commands } = V7_0_0.commands
    expect(GET_TENSOR).toBeDefined()
    expect(commandSpec(Command.GET_TENSOR, { ...V7_0_0, commands })).toBeUndefined()
  })
})

describe("the numbers of 7.0.0", () => {
  test("counts", () => {
    expect(formatVersion(V7_0_0.version)).toBe("7.0.0")
    expect(V7_0_0.ops.length).toBe(101)
    expect(V7_0_0.unaryOps.length).toBe(22)
    expect(V7_0_0.gluOps.length).toBe(7)
    expect(V7_0_0.types.length).toBe(35)
  })

  test("ids where versions differ", () => {
    // The inserted ones of WIRE's history, and the last of each list.
    expect(opId("CUMSUM")).toBe(16)
    expect(opId("VIEW")).toBe(37)
    expect(opId("COL2IM_1D")).toBe(55)
    expect(opId("LIGHTNING_INDEXER")).toBe(87)
    expect(opId("DSV4_HC_POST")).toBe(90)
    expect(opName(100)).toBe("GLU")
    expect(opName(101)).toBeUndefined()
    expect(unaryOpName(14)).toBe("EXPM1")
    expect(unaryOpName(21)).toBe("TRUNC")
    expect(gluOpName(6)).toBe("SWIGLU_CLAMP")
    expect(gluOpName(7)).toBeUndefined()
  })

  test("types", () => {
    expect(typeName(12)).toBe("Q4_K")
    expect(typeId("Q2_0")).toBe(42)
    expect(typeName(4)).toBeUndefined()
    expect(typeId("Q4_2")).toBe(-1)
    expect(opId("NOT_AN_OP")).toBe(-1)
  })

  test("names are unique, and every op that a rule names exists", () => {
    for (const names of [
      V7_0_0.ops,
      V7_0_0.unaryOps,
      V7_0_0.gluOps,
      V7_0_0.types.map((t) => t.name),
    ]) {
      expect(new Set(names).size).toBe(names.length)
    }
    for (const name of [...CALLBACK_OPS, ...V7_0_0.features.expandingOps]) {
      expect(opId(name)).toBeGreaterThan(0)
    }
  })
})

test("an error says where, what and the value", () => {
  const error = new ProtocolError({
    command: "HELLO",
    field: "payload_size",
    reason: "must be 24",
    value: 0,
  })
  expect(error).toBeInstanceOf(Error)
  expect(error.name).toBe("ProtocolError")
  expect(error.message).toBe("HELLO: payload_size must be 24 (got 0)")
  expect(new ProtocolError({ field: "header", reason: "is short" }).message).toBe("header is short")
})
