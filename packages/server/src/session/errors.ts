import { ProtocolError } from "@ggml-rpc/protocol"

/** The client is gone: its end was closed or reset, or its host does not answer any more. */
export class ClientGone extends Error {
  readonly _tag = "ClientGone"
}

/** What `ggml` said while a request failed on the server's side; the request itself was in order. */
export class ComputeError extends Error {
  readonly _tag = "ComputeError"
}

/** The link to another server does not come about, or broke; see Link.ts. */
export class LinkError extends Error {
  readonly _tag = "LinkError"
  /** Which server of its group it is, where the client can be told. */
  readonly place: number | undefined

  constructor(message: string, place?: number) {
    super(message)
    this.place = place
  }
}

/** Refuses a request. `field` may be a tensor's name and a field of it. */
export const refuse: (
  field: string,
  reason: string,
  value?: number | bigint | string | undefined,
) => never = (field, reason, value) => {
  throw new ProtocolError({ field, reason, value })
}
