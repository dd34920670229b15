/*
 * Takes a backup, lists the catalog, restores it: backup_restore URL SERVER DSN TARGET_DIR
 *
 * Run it as the user of the server. The restored server fetches its WAL with this very program, called as
 * backup_restore wal-restore --new-tablespaces inside URL SERVER NAME DESTINATION; so what it needs is here, in one file.
 */
#define _XOPEN_SOURCE 700 /* realpath */
#include <barman_snap.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prints an error, frees it, and gives the exit code. */
static int failed(const char *what, bs_error *error)
{
    const char *operation = bs_error_operation(error);
    fprintf(stderr, "%s: %s (%s, in %s)\n", what, bs_error_message(error), bs_status_name(bs_error_kind(error)),
            operation != NULL ? operation : what);
    bs_error_free(error);
    return EXIT_FAILURE;
}

static void tell(const char *event, void *steps)
{
    if (strstr(event, "\"event\":\"step_done\"") != NULL) {
        ++*(int *)steps;
    }
    fprintf(stderr, "%s\n", event);
}

/* Takes a backup; its id goes to `id`. */
static int backup(const bs_engine *engine, const char *dsn, char *id, size_t size)
{
    bs_session *session = NULL;
    bs_string *summary = NULL;
    bs_error *error = NULL;
    int steps = 0;
    int code = EXIT_SUCCESS;

    if (bs_backup_begin(engine, dsn, "{\"immediate_checkpoint\": true}", tell, &steps, &session, &error) != BS_STATUS_OK) {
        return failed("backup", error);
    }
    if (bs_session_run(session, &summary, &error) != BS_STATUS_OK) {
        code = failed("backup", error);
    } else {
        snprintf(id, size, "%s", bs_session_backup_id(session));
        printf("backup %s is %s after %d steps\n%s\n", id, bs_session_phase(session), steps, bs_string_data(summary));
    }
    bs_string_free(summary);
    bs_session_free(session);
    return code;
}

static int list(const bs_engine *engine)
{
    bs_string *backups = NULL;
    bs_error *error = NULL;

    if (bs_list(engine, &backups, &error) != BS_STATUS_OK) {
        return failed("list", error);
    }
    printf("%s\n", bs_string_data(backups));
    bs_string_free(backups);
    return EXIT_SUCCESS;
}

static int restore(const bs_engine *engine, const char *id, const char *target, const char *program)
{
    char options[4352];
    bs_string *restored = NULL;
    bs_error *error = NULL;

    /* A real program would escape the path for JSON. */
    snprintf(options, sizeof options, "{\"wal_restore_program\": [\"%s\"]}", program);
    if (bs_restore(engine, id, target, options, NULL, NULL, NULL, &restored, &error) != BS_STATUS_OK) {
        return failed("restore", error);
    }
    printf("%s\n", bs_string_data(restored));
    bs_string_free(restored);
    return EXIT_SUCCESS;
}

/* What PostgreSQL runs: exit code 1 says that the archive does not have the file, and nothing else may. */
static int wal_restore(char **arguments)
{
    bs_engine *engine = NULL;
    bs_error *error = NULL;
    bs_status status = bs_engine_open(arguments[0], arguments[1], NULL, &engine, &error);

    if (status == BS_STATUS_OK) {
        /* The restored server must not touch the tablespaces that the original has made since. */
        status = bs_wal_restore(engine, arguments[2], arguments[3], "{\"new_tablespaces\": \"inside\"}", &error);
    }
    bs_engine_free(engine);
    if (status == BS_STATUS_OK) {
        return EXIT_SUCCESS;
    }
    failed("wal-restore", error);
    return status == BS_STATUS_NOT_FOUND ? 1 : 2;
}

int main(int count, char **arguments)
{
    bs_engine *engine = NULL;
    bs_error *error = NULL;
    char program[4096];
    char id[32] = "";
    int code;

    if (count == 8 && strcmp(arguments[1], "wal-restore") == 0 && strcmp(arguments[2], "--new-tablespaces") == 0
        && strcmp(arguments[3], "inside") == 0) {
        return wal_restore(arguments + 4);
    }
    if (count != 5 || realpath(arguments[0], program) == NULL) {
        fprintf(stderr, "usage: /path/to/backup_restore URL SERVER DSN TARGET_DIR\n");
        return EXIT_FAILURE;
    }
    if (bs_engine_open(arguments[1], arguments[2], NULL, &engine, &error) != BS_STATUS_OK) {
        return failed("open", error);
    }
    code = backup(engine, arguments[3], id, sizeof id);
    if (code == EXIT_SUCCESS) {
        code = list(engine);
    }
    if (code == EXIT_SUCCESS) {
        code = restore(engine, id, arguments[4], program);
    }
    bs_engine_free(engine);
    return code;
}
