/** What a statement of the library is for, told from its text alone: every statement it sends is a point where a fault can strike. */

export type Kind =
  | "begin"
  | "commit"
  | "rollback"
  | "claim"
  | "claim read" // MySQL: what the claim has marked
  | "first look" // MySQL: the priority at which a large claim begins
  | "look" // what is due, and when the next one is
  | "settle lock"
  | "settle"
  | "settle check" // what an unacknowledged settlement did
  | "successor"
  | "attempt"
  | "forget attempts" // of a run with very many
  | "create"
  | "cancel"
  | "request cancel"
  | "release"
  | "register"
  | "heartbeat"
  | "reconcile"
  | "drain"
  | "stop"
  | "sweep look"
  | "declare dead"
  | "sweep lock"
  | "put back"
  | "chores look"
  | "unknown look" // runs whose job nobody knows
  | "park"
  | "unpark"
  | "outlived lock" // runs that were kept long enough
  | "delete attempts"
  | "delete runs"
  | "forget instances"
  | "migration lock"
  | "migration step"
  | "migration record"
  | "other"

const runs = "\\w+_runs"
const instances = "\\w+_instances"

// in this order: the first that fits
const signs: ReadonlyArray<readonly [Kind, RegExp]> = [
  ["begin", /^\s*(BEGIN|START TRANSACTION)/i],
  ["commit", /^\s*COMMIT/i],
  ["rollback", /^\s*ROLLBACK/i],
  ["migration lock", /GET_LOCK\(|pg_advisory_xact_lock/],
  ["migration record", /INSERT INTO \w+_migrations/],
  ["migration step", /^\s*(CREATE|ALTER)\b/],
  ["successor", new RegExp(`INSERT INTO ${runs} .*occurrence \\+ 1`)],
  ["create", new RegExp(`INSERT INTO ${runs} |(CALL|SELECT) \\w+_create_(unique_)?runs?\\(`)],
  ["attempt", /INSERT INTO \w+_attempts/],
  ["register", new RegExp(`INSERT INTO ${instances}`)],
  ["claim", new RegExp(`UPDATE .*${runs}.* state = 1, fence = |FROM \\w+_claim_(runs|suspects)\\(`)],
  ["put back", new RegExp(`UPDATE .*${runs} .* = d\\.claimed_at`)],
  ["release", new RegExp(`UPDATE ${runs} .* WHERE id = .* AND fence = .* AND owner = `)],
  ["settle", new RegExp(`UPDATE .*${runs} .*claim_token( = |, |\\) > 0)`)],
  ["park", new RegExp(`UPDATE .*${runs} .*SET (r\\.)?state = 5\\b`)],
  ["unpark", new RegExp(`UPDATE ${runs} .*WHERE .*state = 5\\b|WHERE state = 5 .*UPDATE ${runs} `)],
  ["chores look", /\) IS NULL .* AS parked/],
  ["unknown look", new RegExp(`FROM ${runs} .*\\) head WHERE job NOT IN`)],
  ["outlived lock", new RegExp(`SELECT id FROM ${runs} WHERE state = .* ORDER BY finished_at`)],
  ["forget attempts", /DELETE FROM \w+_attempts WHERE run_id = .* AND attempt <= /],
  ["delete attempts", /DELETE .*\w+_attempts\b/],
  ["delete runs", new RegExp(`DELETE .*${runs}\\b`)],
  ["forget instances", new RegExp(`DELETE FROM ${instances} `)],
  ["request cancel", new RegExp(`UPDATE ${runs} .*cancel_at = COALESCE`)],
  ["cancel", new RegExp(`UPDATE ${runs} SET state = 4`)],
  ["heartbeat", new RegExp(`UPDATE ${instances} SET lease_until`)],
  ["declare dead", new RegExp(`UPDATE ${instances} (AS i )?SET state = 3`)],
  ["drain", new RegExp(`UPDATE ${instances} SET state = 1`)],
  ["stop", new RegExp(`UPDATE ${instances} SET state = 2`)],
  ["sweep look", /\) AS expired/],
  ["sweep lock", new RegExp(`SELECT r\\.id, r\\.fence.* FROM ${runs} r WHERE r\\.state = 1`)],
  ["settle check", new RegExp(`SELECT r\\.id.* ${runs} r .*r\\.state <> 1`)],
  ["settle lock", new RegExp(`SELECT r\\.id.* ${runs} r .*claim_token = d\\.token`)],
  ["reconcile", new RegExp(`SELECT id, fence, claim_token.* FROM ${runs} (FORCE INDEX \\(\\w+\\) )?WHERE owner = `)],
  ["claim read", new RegExp(`SELECT .* FROM ${runs} (FORCE INDEX \\(\\w+\\) )?WHERE owner = .* claim_token = `)],
  ["first look", /^\s*SELECT COALESCE\(\( SELECT priority FROM/],
  ["look", /- .* AS wait FROM/]
]

export const kindOf = (text: string): Kind => {
  const line = text.replace(/\s+/g, " ")
  return signs.find(([, sign]) => sign.test(line))?.[0] ?? "other"
}
