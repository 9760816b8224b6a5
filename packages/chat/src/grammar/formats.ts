/** `format` of JSON schemas as regular expressions; a format that is not here allows any text. */
const date = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
const time =
  "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
const label = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
const octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
const group = "[0-9a-fA-F]{1,4}"

export const formatPatterns: Readonly<Record<string, string>> = {
  date,
  time,
  "date-time": `${date}T${time}`,
  duration:
    "P([0-9]{1,9}W|[0-9]{1,9}Y([0-9]{1,9}M)?([0-9]{1,9}D)?|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}D|T([0-9]{1,9}H)?([0-9]{1,9}M)?[0-9]{1,9}S)",
  email: `[A-Za-z0-9!#$%&'*+/=?^_\`{|}~-]{1,64}(\\.[A-Za-z0-9!#$%&'*+/=?^_\`{|}~-]{1,32}){0,4}@${label}(\\.${label}){1,8}`,
  hostname: `${label}(\\.${label}){0,8}`,
  ipv4: `${octet}(\\.${octet}){3}`,
  ipv6: `(${group}:){7}${group}|(${group}:){1,6}(:${group}){1,6}|::(${group}:){0,6}${group}|(${group}:){1,7}:|::`,
  uuid: "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
