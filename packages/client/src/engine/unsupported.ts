/** What devices do not support of a measured model, by name. */
import type { ModelContext } from "@ggml-rpc/native/bindings/llama"
import { gluOpName, opName, typeName, unaryOpName } from "@ggml-rpc/protocol"
import type { RemoteDevice } from "../devices/device.ts"
import { UnsupportedOpError } from "../errors.ts"
import type { UnsupportedOps } from "./messages.ts"

/** Of each device that takes part but does not compute all that it should; `device` is its place in the list. */
export const unsupportedOps = (
  context: ModelContext,
  devices: ReadonlyArray<RemoteDevice>,
): ReadonlyArray<UnsupportedOps> => {
  const shares = context.surveyGraph(devices.map(({ address }) => address)) ?? []
  return shares.flatMap(({ pieceCount, bytes, refused }, device) => {
    if (refused.length === 0) return []
    const operations = refused.map(({ op, kind, type, nodeCount }) => ({
      name: operationName(op, kind),
      type: typeName(type) ?? `type ${type}`,
      nodeCount,
    }))
    return [{ device, operations, pieceCount, bytesPerToken: bytes }]
  })
}

const operationName = (op: number, kind: number): string => {
  const name = opName(op)
  const kindName =
    name === "UNARY" ? unaryOpName(kind) : name === "GLU" ? gluOpName(kind) : undefined
  return kindName ?? name ?? `operation ${op}`
}

/** An operation that only this device could compute. */
export const unsupportedOp = (
  { endpoint, version }: RemoteDevice,
  op: number,
): UnsupportedOpError => new UnsupportedOpError({ endpoint, op: operationName(op, -1), version })
