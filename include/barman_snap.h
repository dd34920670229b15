/*
 * barman_snap: snapshot backups for PostgreSQL, from C.
 *
 * Conventions
 *
 * - Every function that can fail returns a bs_status and takes `bs_error **error` last. `error` may be NULL. Otherwise,
 *   on failure, `*error` becomes an error object, which the caller frees with bs_error_free; what it held before is not
 *   freed. On success it is not touched.
 * - Other outputs are written on success only.
 * - A NULL where something is needed is BS_STATUS_INVALID_INPUT, never a crash. Every `_free` takes NULL.
 * - Ownership is in the type. A handle (bs_engine, bs_session, bs_string, bs_error, bs_cancel) that comes out through a
 *   `**` belongs to the caller, who frees it with its own `_free`, once. A `const char *` that is returned is borrowed;
 *   its function says for how long. Arguments are never kept: they may be freed when the function has returned.
 * - All text is UTF-8 and ends with NUL. Options and results that have many fields are JSON objects; an option that is
 *   not known is refused. Times are in milliseconds and say so in their names.
 * - Threads: a bs_engine, and a bs_cancel, may be used by several threads at once. One thread at a time may drive a
 *   bs_session; its cancel, phase and backup_id functions may be called by others meanwhile. bs_string and bs_error never
 *   change. Nothing may be used while or after it is freed.
 * - fork: threads do not survive it. In the child every call with an old handle is BS_STATUS_PRECONDITION; open a new
 *   engine there. Freeing old handles is fine.
 * - The library prints nothing, sets up no log, no signal handler and no locale, changes no directory, and never exits.
 *   A defect in it (a panic) becomes BS_STATUS_INTERNAL; its text may then appear on stderr.
 */


#ifndef BARMAN_SNAP_H
#define BARMAN_SNAP_H

/* Generated from the Rust sources of ffi/ by `make header`; do not edit. */

#include <stddef.h>
#include <stdint.h>

// What became of a call. The values are stable; new ones may be added at the end, so have a default branch.
typedef enum {
  // It worked.
  BS_STATUS_OK = 0,
  // The request itself is wrong: an option, a name, a URL, a NULL. Change the request.
  BS_STATUS_INVALID_INPUT = 1,
  // The machine or the server is not in a state in which it could work. Change the surroundings.
  BS_STATUS_PRECONDITION = 2,
  // The thing asked for does not exist.
  BS_STATUS_NOT_FOUND = 3,
  // A thing of that name exists and differs, or somebody else was faster.
  BS_STATUS_CONFLICT = 4,
  // Another driver has taken over this session; this one must not touch it any more.
  BS_STATUS_FENCED = 5,
  // Credentials or privileges do not allow it.
  BS_STATUS_PERMISSION_DENIED = 6,
  // Could not be reached, or did not answer in time.
  BS_STATUS_UNAVAILABLE = 7,
  // A limit or quota is in the way.
  BS_STATUS_EXHAUSTED = 8,
  // Stored bytes are not what they should be.
  BS_STATUS_CORRUPT = 9,
  // PostgreSQL refused a statement, or its connection was lost.
  BS_STATUS_POSTGRES = 10,
  // The snapshot provider refused, or a snapshot failed.
  BS_STATUS_PROVIDER = 11,
  // The object store or the local file system failed.
  BS_STATUS_STORAGE = 12,
  // It was cancelled.
  BS_STATUS_CANCELLED = 13,
  // The provider or the platform cannot do this at all.
  BS_STATUS_UNSUPPORTED = 14,
  // A defect of this library.
  BS_STATUS_INTERNAL = 15,
} bs_status;

// Whether doing the same again can help.
typedef enum {
  // It will fail in the same way.
  BS_RETRY_NEVER = 0,
  // Nothing happened; the same may succeed.
  BS_RETRY_SAFE = 1,
  // Nothing happened; the same may succeed after some time: see bs_error_retry_after_ms.
  BS_RETRY_AFTER = 2,
  // It cannot be told whether it happened. Look before doing it again.
  BS_RETRY_UNKNOWN = 3,
} bs_retry;

// Cancels the calls it was given to, from any thread. Owned by the caller, freed with bs_cancel_free.
typedef struct bs_cancel bs_cancel;

// One server in one catalog, and what can be done with its backups. May be used from several threads at once. Sessions
// live on when it is freed.
typedef struct bs_engine bs_engine;

// Why a call failed. Owned by the caller, freed with bs_error_free, never changes. What its functions return is borrowed
// from it.
typedef struct bs_error bs_error;

// A backup that is being taken. One thread at a time may drive it (bs_session_run, bs_session_next_step: a second one
// gets BS_STATUS_CONFLICT); all other functions may be called from any thread meanwhile.
typedef struct bs_session bs_session;

// A text that the caller owns and frees with bs_string_free. Never changes.
typedef struct bs_string bs_string;

// Told what has just happened, as a JSON object whose "event" is planned, step_begun, step_done, waiting or undoing for a
// backup; making, made, prepared or checking for a restore (new ones may come). The text is borrowed: valid until the
// function returns.
//
// It must return soon, and must not leave by longjmp or an exception. Never called twice at the same time for one call,
// but perhaps on another thread. It may call bs_session_cancel and bs_cancel_fire, but nothing that waits.
typedef void (*bs_progress)(const char *event, void *user_data);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Makes a switch. Never NULL.
bs_cancel *bs_cancel_new(void);

// Cancels every call that was given this switch, now and later; they clean up and return BS_STATUS_CANCELLED. May be
// called from any thread and any callback, as often as one likes; not from a signal handler. NULL is fine.
void bs_cancel_fire(const bs_cancel *cancel);

// Frees a switch. NULL is fine. Calls that were given it go on.
void bs_cancel_free(bs_cancel *cancel);

// All backups. `*backups` becomes a JSON object: backups_list is that of barman-cloud-backup-list, with "keep" where a
// backup is kept; unreadable are those whose metadata cannot be read, each with backup_id and error; sessions are
// those that are not over or came to nothing.
bs_status bs_list(const bs_engine *engine,
                  bs_string **backups,
                  bs_error **error);

// One backup: `backup` is an id, a name, "first" or "last". `*details` becomes the JSON object of bs_list for it, with
// "proofs".
bs_status bs_show(const bs_engine *engine,
                  const char *backup,
                  bs_string **details,
                  bs_error **error);

// Keeps a backup beyond every retention policy: `target` is "full" (with all WAL since) or "standalone" (with its own
// WAL only); NULL releases it.
bs_status bs_keep(const bs_engine *engine,
                  const char *backup,
                  const char *target,
                  bs_error **error);

// Deletes backups with their snapshots, and the WAL that nobody needs then. `*plan` becomes a JSON object that says what
// was deleted, or with dry_run would be: backups, wal_keys, wal_reason.
//
// `options` is a JSON object with one of backup and retention_policy ("REDUNDANCY 3", "RECOVERY WINDOW OF 4 WEEKS"), and
// any of: minimum_redundancy, snapshots_gone, dry_run.
bs_status bs_delete(const bs_engine *engine,
                    const char *options,
                    bs_string **plan,
                    bs_error **error);

// Opens the catalog at `url` for the server of that name: a directory, file://, s3://, gs:// or Azure's https://.
// Nothing of it needs to exist yet.
//
// `options` is NULL or a JSON object with any of: endpoint_url, aws_profile, aws_region, read_timeout_ms,
// addressing_style, azure_credential, snapshot_provider, snapshot_method, snapshot_directory, cut_timeout_ms,
// ready_timeout_ms, wal_timeout_ms.
bs_status bs_engine_open(const char *url,
                         const char *server,
                         const char *options,
                         bs_engine **engine,
                         bs_error **error);

// Frees an engine. NULL is fine. No other call may be using it.
void bs_engine_free(bs_engine *engine);

// What went wrong: the same value that the failed function returned. BS_STATUS_OK for NULL.
bs_status bs_error_kind(const bs_error *error);

// Whether doing the same again can help. BS_RETRY_NEVER for NULL.
bs_retry bs_error_retry(const bs_error *error);

// After how many milliseconds to try again, for BS_RETRY_AFTER; else 0.
uint64_t bs_error_retry_after_ms(const bs_error *error);

// One line for people: what went wrong, its causes, and in brackets what to do. NULL for NULL.
const char *bs_error_message(const bs_error *error);

// The operation that was stopped ("restore", "await-cut"); NULL if none was named.
const char *bs_error_operation(const bs_error *error);

// What the user can do, which is also part of the message; NULL if that is not known.
const char *bs_error_hint(const bs_error *error);

// The five characters of PostgreSQL's SQLSTATE; NULL if PostgreSQL gave none.
const char *bs_error_sqlstate(const bs_error *error);

// How many values for machines the error carries (backup_id, volume, path, ...).
size_t bs_error_context_count(const bs_error *error);

// The name of value `index`, from 0 on; NULL if there is none.
const char *bs_error_context_key(const bs_error *error, size_t index);

// Value `index`, from 0 on; NULL if there is none.
const char *bs_error_context_value(const bs_error *error, size_t index);

// Frees an error. NULL is fine.
void bs_error_free(bs_error *error);

// Brings sessions that were left by their process to their end. `*rescues` becomes a JSON array with an object per
// session: backup_id, phase (before), action, ended (the phase now), error.
//
// `options` is NULL or a JSON object with any of: backup_id, force, discard, snapshots_gone, dry_run. `cancel` may be NULL.
bs_status bs_recover(const bs_engine *engine,
                     const char *options,
                     const bs_cancel *cancel,
                     bs_string **rescues,
                     bs_error **error);

// Finds snapshots that bear our mark and belong to nobody, volumes that a restore has made and never attached, and journals of
// what is gone. `*plan` becomes a JSON object: orphans, volumes, kept_volumes, unseen_volumes, unseen_snapshots, unreachable,
// journals, kept_journals, saved_configs, open_sessions, refusal. Nothing is removed unless `options` says {"apply": true}.
//
// `options` is NULL or a JSON object with any of: apply, keep_undone_days, volumes_older_than_days.
bs_status bs_gc(const bs_engine *engine,
                const char *options,
                bs_string **plan,
                bs_error **error);

// Restores a backup (an id, a name, "first", "last", or "auto" for the one that suits the target) to a data directory,
// ready to be started. `*restored` becomes a JSON object that says what was done; with dry_run, the plan. Refusals come
// before anything is changed; what was made is removed again on a failure.
//
// `options` is NULL or a JSON object with any of: tablespaces (an object: name or old directory, and new directory),
// waldir, in_place, target_time, target_lsn, target_xid, target_name, target_immediate, target_tli, target_exclusive,
// target_action, restore_command, wal_restore_program (an array: the words before "wal-restore [--new-tablespaces inside]
// URL SERVER %f %p"; without it, barman-snap), clone, replace, standby, snapshot_recovery_instance, mounted, dry_run. `cancel`
// and `progress` may be NULL.
bs_status bs_restore(const bs_engine *engine,
                     const char *backup,
                     const char *target_dir,
                     const char *options,
                     const bs_cancel *cancel,
                     bs_progress progress,
                     void *user_data,
                     bs_string **restored,
                     bs_error **error);

// Restores a backup to a throw-away place, starts it, looks at every page, and records the proof. `*proof` becomes a JSON
// object; look at its "passed": a backup that was found bad is no error of this call.
//
// `options` is NULL or a JSON object with any of: work_dir, pg_bin_dir, sql (an array), sql_database, all_wal, timeout_ms,
// without (an array of checks to leave out: "amcheck", "checksums"), wal_restore_program, snapshot_recovery_instance. `cancel` and `progress` may be NULL.
bs_status bs_verify(const bs_engine *engine,
                    const char *backup,
                    const char *options,
                    const bs_cancel *cancel,
                    bs_progress progress,
                    void *user_data,
                    bs_string **proof,
                    bs_error **error);

// Plans a backup and claims its id; nothing else has been done when this returns. Then call bs_session_run, or
// bs_session_next_step until there is no next step.
//
// `connection` is a libpq connection string or URI, the name of a database, or NULL for what the PG* variables say.
// `options` is NULL or a JSON object with any of: name, snapshot_instance, snapshot_disks, exclude_tablespaces,
// immediate_checkpoint, wal_external, tags. `progress` may be NULL; it and `user_data` must stay valid until the session is freed.
bs_status bs_backup_begin(const bs_engine *engine,
                          const char *connection,
                          const char *options,
                          bs_progress progress,
                          void *user_data,
                          bs_session **session,
                          bs_error **error);

// Does the next step. `*step` becomes its name ("start", "snapshot", ..., valid for ever), or NULL when there is none
// left. `step` may be NULL. After an error go on calling while the phase is "undoing": the next steps undo.
bs_status bs_session_next_step(const bs_session *session,
                               const char **step,
                               bs_error **error);

// Runs the session to its end. On success `*summary` becomes a JSON object: backup_id, begin_lsn, end_lsn, snapshots,
// backup_mode_ms, cut_ms, bytes_copied, wal_supplied,
// archived_elsewhere. On failure the context "ended" of the error says what is left:
// "undone" is nothing, "finishing" is for bs_recover to complete, "stuck" is for somebody to look at.
bs_status bs_session_run(const bs_session *session,
                         bs_string **summary,
                         bs_error **error);

// Cancels the session, from any thread and any callback, as often as one likes; not from a signal handler. Whoever
// drives it gets BS_STATUS_CANCELLED, and it is undone by going on to drive it; once the snapshots are safe it is left
// to bs_recover instead. NULL is fine.
void bs_session_cancel(const bs_session *session);

// The phase after the last step: planned, starting, started, snapshotting, stopped, finishing, published, undoing,
// undone or stuck. Valid for ever. NULL for NULL.
const char *bs_session_phase(const bs_session *session);

// The id of the backup. Borrowed: valid until the session is freed. NULL for NULL.
const char *bs_session_backup_id(const bs_session *session);

// Frees a session. NULL is fine. No other call may be using it. One that is not over is left as if its process had died:
// PostgreSQL ends the backup, and bs_recover cleans up. To leave nothing behind, cancel it and run it first.
void bs_session_free(bs_session *session);

// The name of a status: "not_found". For a number that is no status: "unknown". Valid for ever.
const char *bs_status_name(int32_t status);

// The version of the library: "0.1.0". Valid for ever.
const char *bs_version(void);

// The text, UTF-8, ended by NUL. Borrowed: valid until the string is freed. NULL for NULL.
const char *bs_string_data(const bs_string *string);

// Its length in bytes, without the NUL at the end. 0 for NULL.
size_t bs_string_length(const bs_string *string);

// Frees a string. NULL is fine.
void bs_string_free(bs_string *string);

// Stores one WAL file (%p of archive_command) under its name. BS_STATUS_OK also if it is there already with the same
// content; other content is BS_STATUS_CONFLICT, and nothing is changed.
//
// `options` is NULL or a JSON object with any of: compression, compression_level.
bs_status bs_wal_archive(const bs_engine *engine,
                         const char *path,
                         const char *options,
                         bs_error **error);

// Fetches one WAL file by its name (%f of restore_command) to a path (%p). BS_STATUS_NOT_FOUND if it is not there, which
// is how PostgreSQL learns that the WAL ends.
//
// `options` is NULL or a JSON object with any of: new_tablespaces ("original", or "inside": what the WAL creates stays in the
// data directory into which it is replayed; BS_STATUS_UNSUPPORTED if it cannot be kept there).
bs_status bs_wal_restore(const bs_engine *engine,
                         const char *name,
                         const char *destination,
                         const char *options,
                         bs_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BARMAN_SNAP_H */
