const reasons: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file or folder",
  ENOTDIR: "a part of the path is no folder",
  EISDIR: "it is a directory",
  EACCES: "no permission",
  EPERM: "no permission",
  EROFS: "nothing can be written there",
  ENOSPC: "the disk is full",
}

/** Why the system refused a file, in words. */
export const fileReason = (cause: unknown): string =>
  reasons[String((cause as { readonly code?: unknown } | null)?.code)] ??
  (cause instanceof Error ? cause.message : String(cause))
