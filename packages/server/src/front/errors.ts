import { formatMebibytes } from "@ggml-rpc/native/bindings"
import { offers, shortVersion, versionRange } from "@ggml-rpc/protocol"
import * as Data from "effect/Data"
import type { DeviceReport } from "../session/events.ts"

/** Another program listens on the endpoint. */
export class PortInUseError extends Data.TaggedError("PortInUseError")<{
  /** `host:port`. */
  readonly endpoint: string
}> {
  override get message() {
    return `${this.endpoint} is in use by another program: stop that one, or choose another port with --port (0 picks a free one).`
  }
}

/** The endpoint cannot be listened on for another reason than being in use. */
export class ListenError extends Data.TaggedError("ListenError")<{
  readonly endpoint: string
  readonly reason: string
  readonly cause: unknown
}> {
  override get message() {
    return `Cannot listen on ${this.endpoint}: ${this.reason}. --host must be an address or a name of this machine, and ports below 1024 need privileges.`
  }
}

/** A certificate or its key is of no use. */
export class TlsIdentityError extends Data.TaggedError("TlsIdentityError")<{
  /** The files. */
  readonly place: string
  readonly cause: unknown
}> {
  override get message() {
    const reason = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `The certificate in ${this.place} cannot be used: ${reason}. --tls-cert and --tls-key take PEM files; --tls self makes a certificate.`
  }
}

/** A text that should be a range of addresses. */
export class AllowListError extends Data.TaggedError("AllowListError")<{
  readonly range: string
}> {
  override get message() {
    return `'${this.range}' is no range of addresses: write an address, or a network such as 192.168.0.0/16 or fd00::/8, with commas between several.`
  }
}

/** A device was asked for that this machine does not have. */
export class UnknownDeviceError extends Data.TaggedError("UnknownDeviceError")<{
  readonly device: string
  readonly available: readonly DeviceReport[]
}> {
  override get message() {
    const list = this.available.map(
      (device) =>
        `  ${device.name}: ${device.description} (${formatMebibytes(device.totalBytes)}, ${formatMebibytes(device.freeBytes)} free)`,
    )
    return `There is no device ${this.device}. Available devices:\n${list.join("\n")}`
  }
}

/** The first session process did not come up: libraries missing, or no device to serve. */
export class SessionStartError extends Data.TaggedError("SessionStartError")<{
  readonly reason: string
}> {
  override get message() {
    return `The server's session process did not start: ${this.reason}`
  }
}

/** The folder of the tensor cache cannot be made. */
export class CacheFolderError extends Data.TaggedError("CacheFolderError")<{
  readonly folder: string
  readonly cause: unknown
}> {
  override get message() {
    const reason = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `The cache folder ${this.folder} cannot be used (${reason}): name another with LLAMA_CACHE, or serve without --cache.`
  }
}

/** A folder of models cannot be read, or their index cannot be kept. */
export class ModelFolderError extends Data.TaggedError("ModelFolderError")<{
  readonly folder: string
  readonly cause: unknown
}> {
  override get message() {
    const reason = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `The folder ${this.folder} cannot be used for models (${reason}): name others with --models.`
  }
}

/** A temporary file for the session processes cannot be made. */
export class SharedFileError extends Data.TaggedError("SharedFileError")<{
  readonly folder: string
  readonly cause: unknown
}> {
  override get message() {
    const reason = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `No temporary file can be made in ${this.folder} (${reason}): free some space there, or name another folder with TMPDIR.`
  }
}

/** A protocol version was asked for that this server does not speak. */
export class UnknownProtocolError extends Data.TaggedError("UnknownProtocolError")<{
  readonly protocol: string
}> {
  override get message() {
    return `Protocol ${this.protocol} is none that this server speaks: --protocol takes 'auto' or a version from ${versionRange}, such as ${offers(
      true,
    )
      .slice(1, 2)
      .map(({ version }) => shortVersion(version))
      .join("")}.`
  }
}

export type ServeError =
  | UnknownProtocolError
  | PortInUseError
  | ListenError
  | UnknownDeviceError
  | SessionStartError
  | AllowListError
  | TlsIdentityError
  | CacheFolderError
  | ModelFolderError
  | SharedFileError
