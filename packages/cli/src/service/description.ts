/** A service as systemd and launchd read it. */
import type { ServiceCommand } from "./place.ts"

/** A word of ExecStart: systemd.service(5), "Command lines", and the specifiers of systemd.unit(5). */
const systemdWord = (word: string): string =>
  `"${word
    .replace(/[\\"]/g, "\\$&")
    .replaceAll("%", "%%")
    .replaceAll("$", "$$$$")
    .replaceAll("\n", "\\n")}"`

/** A path setting, which knows specifiers but no quotes. */
const systemdPath = (path: string): string => path.replaceAll("%", "%%")

/** A user unit. */
export const systemdUnit = ({ words, folder }: ServiceCommand): string =>
  [
    "[Unit]",
    "Description=ggml-rpc: this machine's devices for others",
    "",
    "[Service]",
    `ExecStart=${words.map(systemdWord).join(" ")}`,
    `WorkingDirectory=${systemdPath(folder)}`,
    "Restart=on-failure",
    "RestartSec=2",
    "",
    "[Install]",
    "WantedBy=default.target",
    "",
  ].join("\n")

const xml = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

/** A property list of a launch agent: launchd.plist(5). */
export const launchdAgent = (
  label: string,
  log: string,
  { words, folder }: ServiceCommand,
): string =>
  [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">',
    '<plist version="1.0">',
    "<dict>",
    `  <key>Label</key><string>${xml(label)}</string>`,
    "  <key>ProgramArguments</key>",
    "  <array>",
    ...words.map((word) => `    <string>${xml(word)}</string>`),
    "  </array>",
    `  <key>WorkingDirectory</key><string>${xml(folder)}</string>`,
    "  <key>RunAtLoad</key><true/>",
    "  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>",
    `  <key>StandardOutPath</key><string>${xml(log)}</string>`,
    `  <key>StandardErrorPath</key><string>${xml(log)}</string>`,
    "</dict>",
    "</plist>",
    "",
  ].join("\n")
