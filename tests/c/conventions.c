/*
 * What the header promises of every function, asked of every function: NULLs are refused and never followed, outputs are
 * written on success only, errors can be read, everything can be freed, a fork is refused. Needs no PostgreSQL. Made to be
 * run under valgrind as well.
 */
#define _DEFAULT_SOURCE /* mkdtemp */
#include <barman_snap.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures = 0;

static void check(int good, const char *what, int line)
{
    if (!good) {
        fprintf(stderr, "line %d: %s\n", line, what);
        ++failures;
    }
}
#define CHECK(condition) check((condition), #condition, __LINE__)

/* The call fails with this status, with an error object that says the same. */
#define FAILS(expected, call)                                        \
    do {                                                             \
        bs_error *error = NULL;                                      \
        CHECK((call) == (expected));                                 \
        CHECK(bs_error_kind(error) == (expected));                   \
        CHECK(bs_error_message(error) != NULL);                      \
        bs_error_free(error);                                        \
    } while (0)

static void nothing(const char *event, void *user_data)
{
    (void)event;
    (void)user_data;
}

static void nulls_are_refused_and_outputs_are_left_alone(const bs_engine *engine)
{
    bs_engine *opened = (bs_engine *)(void *)&failures;
    bs_session *session = (bs_session *)(void *)&failures;
    bs_string *text = (bs_string *)(void *)&failures;
    const char *step = "untouched";
    const bs_status bad = BS_STATUS_INVALID_INPUT;

    FAILS(bad, bs_engine_open(NULL, "pg1", NULL, &opened, &error));
    FAILS(bad, bs_engine_open("/c", NULL, NULL, &opened, &error));
    FAILS(bad, bs_engine_open("/c", "pg1", NULL, NULL, &error));
    FAILS(bad, bs_engine_open("/c", "../pg1", NULL, &opened, &error));
    FAILS(bad, bs_engine_open("/c", "pg1", "{\"no_such_option\": 1}", &opened, &error));
    FAILS(bad, bs_engine_open("/c", "pg1", "not json", &opened, &error));
    FAILS(bad, bs_engine_open("/c", "\xff", NULL, &opened, &error));
    FAILS(BS_STATUS_UNSUPPORTED, bs_engine_open("/c", "pg1", "{\"snapshot_provider\": \"floppy\"}", &opened, &error));
    CHECK((void *)opened == (void *)&failures);

    FAILS(bad, bs_backup_begin(NULL, NULL, NULL, nothing, NULL, &session, &error));
    FAILS(bad, bs_backup_begin(engine, NULL, NULL, NULL, NULL, NULL, &error));
    FAILS(bad, bs_backup_begin(engine, "no_such_keyword=1", NULL, NULL, NULL, &session, &error));
    FAILS(BS_STATUS_UNAVAILABLE, bs_backup_begin(engine, "host=/no/such/directory", NULL, NULL, NULL, &session, &error));
    CHECK((void *)session == (void *)&failures);
    FAILS(bad, bs_session_next_step(NULL, &step, &error));
    CHECK(strcmp(step, "untouched") == 0);

    FAILS(bad, bs_session_run(NULL, &text, &error));
    FAILS(bad, bs_list(NULL, &text, &error));
    FAILS(bad, bs_list(engine, NULL, &error));
    FAILS(bad, bs_show(NULL, "last", &text, &error));
    FAILS(bad, bs_show(engine, NULL, &text, &error));
    FAILS(bad, bs_show(engine, "last", NULL, &error));
    FAILS(BS_STATUS_NOT_FOUND, bs_show(engine, "20260529T101112", &text, &error));
    FAILS(bad, bs_keep(NULL, "last", "full", &error));
    FAILS(bad, bs_keep(engine, NULL, "full", &error));
    FAILS(bad, bs_keep(engine, "last", "for ever", &error));
    FAILS(bad, bs_delete(NULL, "{}", &text, &error));
    FAILS(bad, bs_delete(engine, NULL, &text, &error));
    FAILS(bad, bs_delete(engine, "{}", &text, &error));
    FAILS(bad, bs_delete(engine, "{\"backup\": \"last\"}", NULL, &error));
    FAILS(bad, bs_restore(NULL, "last", "/t", NULL, NULL, NULL, NULL, &text, &error));
    FAILS(bad, bs_restore(engine, NULL, "/t", NULL, NULL, NULL, NULL, &text, &error));
    FAILS(bad, bs_restore(engine, "last", NULL, NULL, NULL, NULL, NULL, &text, &error));
    FAILS(bad, bs_restore(engine, "last", "/t", NULL, NULL, NULL, NULL, NULL, &error));
    FAILS(bad, bs_restore(engine, "last", "/t", "[]", NULL, NULL, NULL, &text, &error));
    FAILS(BS_STATUS_NOT_FOUND, bs_restore(engine, "last", "/t", NULL, NULL, NULL, NULL, &text, &error));
    FAILS(bad, bs_verify(NULL, "last", NULL, NULL, NULL, NULL, &text, &error));
    FAILS(bad, bs_verify(engine, NULL, NULL, NULL, NULL, NULL, &text, &error));
    FAILS(bad, bs_verify(engine, "last", NULL, NULL, NULL, NULL, NULL, &error));
    FAILS(bad, bs_recover(NULL, NULL, NULL, &text, &error));
    FAILS(bad, bs_recover(engine, NULL, NULL, NULL, &error));
    FAILS(bad, bs_recover(engine, "{\"backup_id\": \"x\"}", NULL, &text, &error));
    FAILS(bad, bs_gc(NULL, NULL, &text, &error));
    FAILS(bad, bs_gc(engine, NULL, NULL, &error));
    FAILS(bad, bs_wal_archive(NULL, "/x", NULL, &error));
    FAILS(bad, bs_wal_archive(engine, NULL, NULL, &error));
    FAILS(bad, bs_wal_archive(engine, "/x", NULL, &error));
    FAILS(bad, bs_wal_restore(NULL, "000000010000000000000001", "/x", NULL, &error));
    FAILS(bad, bs_wal_restore(engine, NULL, "/x", NULL, &error));
    FAILS(bad, bs_wal_restore(engine, "000000010000000000000001", NULL, NULL, &error));
    /* Not "not found": nothing was ever archived here, so nobody can tell. */
    FAILS(BS_STATUS_UNAVAILABLE, bs_wal_restore(engine, "000000010000000000000001", "/x", NULL, &error));
    CHECK((void *)text == (void *)&failures);

    /* Nobody has to take the error object. */
    CHECK(bs_list(NULL, &text, NULL) == bad);
}

static void accessors_take_null(void)
{
    CHECK(bs_error_kind(NULL) == BS_STATUS_OK);
    CHECK(bs_error_retry(NULL) == BS_RETRY_NEVER);
    CHECK(bs_error_retry_after_ms(NULL) == 0);
    CHECK(bs_error_message(NULL) == NULL);
    CHECK(bs_error_operation(NULL) == NULL);
    CHECK(bs_error_hint(NULL) == NULL);
    CHECK(bs_error_sqlstate(NULL) == NULL);
    CHECK(bs_error_context_count(NULL) == 0);
    CHECK(bs_error_context_key(NULL, 0) == NULL);
    CHECK(bs_error_context_value(NULL, 0) == NULL);
    CHECK(bs_string_data(NULL) == NULL);
    CHECK(bs_string_length(NULL) == 0);
    CHECK(bs_session_phase(NULL) == NULL);
    CHECK(bs_session_backup_id(NULL) == NULL);
    bs_session_cancel(NULL);
    bs_cancel_fire(NULL);
    bs_cancel_free(NULL);
    bs_error_free(NULL);
    bs_string_free(NULL);
    bs_session_free(NULL);
    bs_engine_free(NULL);
}

static void an_error_says_what_to_do(const bs_engine *engine)
{
    bs_error *error = NULL;
    bs_string *text = NULL;

    CHECK(bs_show(engine, "nightly", &text, &error) == BS_STATUS_NOT_FOUND);
    CHECK(strstr(bs_error_message(error), "nightly") != NULL);
    CHECK(strcmp(bs_error_operation(error), "show") == 0);
    CHECK(bs_error_hint(error) != NULL);
    CHECK(bs_error_sqlstate(error) == NULL);
    CHECK(bs_error_retry(error) == BS_RETRY_NEVER);
    CHECK(bs_error_context_key(error, bs_error_context_count(error)) == NULL);
    bs_error_free(error);
}

static void names_are_known(void)
{
    CHECK(strcmp(bs_status_name(BS_STATUS_OK), "ok") == 0);
    CHECK(strcmp(bs_status_name(BS_STATUS_PERMISSION_DENIED), "permission_denied") == 0);
    CHECK(strcmp(bs_status_name(4711), "unknown") == 0);
    CHECK(bs_version()[0] >= '0' && bs_version()[0] <= '9');
}

static void an_empty_catalog_is_empty(const bs_engine *engine)
{
    bs_string *text = NULL;

    CHECK(bs_list(engine, &text, NULL) == BS_STATUS_OK);
    CHECK(strcmp(bs_string_data(text), "{\"backups_list\":[],\"unreadable\":[],\"sessions\":[]}") == 0);
    CHECK(strlen(bs_string_data(text)) == bs_string_length(text));
    bs_string_free(text);
    text = NULL;
    CHECK(bs_recover(engine, NULL, NULL, &text, NULL) == BS_STATUS_OK);
    CHECK(strcmp(bs_string_data(text), "[]") == 0);
    bs_string_free(text);
}

static void *list_often(void *engine)
{
    for (int turn = 0; turn < 20; ++turn) {
        bs_string *text = NULL;
        CHECK(bs_list(engine, &text, NULL) == BS_STATUS_OK);
        bs_string_free(text);
    }
    return NULL;
}

static void threads_share_an_engine(bs_engine *engine)
{
    pthread_t threads[4];

    for (int at = 0; at < 4; ++at) {
        CHECK(pthread_create(&threads[at], NULL, list_often, engine) == 0);
    }
    for (int at = 0; at < 4; ++at) {
        pthread_join(threads[at], NULL);
    }
}

static void a_forked_child_is_refused(bs_engine *engine)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        bs_string *text = NULL;
        const bs_status said = bs_list(engine, &text, NULL);
        bs_engine_free(engine);
        _exit(said == BS_STATUS_PRECONDITION ? 0 : 1);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* With an argument, without the fork: valgrind follows the child and finds the threads that are gone. */
int main(int count, char **arguments)
{
    char directory[] = "/tmp/barman-snap-c-XXXXXX";
    bs_engine *engine = NULL;
    bs_error *error = NULL;
    bs_cancel *cancel = bs_cancel_new();

    (void)arguments;
    if (mkdtemp(directory) == NULL || bs_engine_open(directory, "pg1", NULL, &engine, &error) != BS_STATUS_OK) {
        fprintf(stderr, "cannot begin: %s\n", error != NULL ? bs_error_message(error) : "mkdtemp");
        return EXIT_FAILURE;
    }
    accessors_take_null();
    names_are_known();
    nulls_are_refused_and_outputs_are_left_alone(engine);
    an_error_says_what_to_do(engine);
    an_empty_catalog_is_empty(engine);
    threads_share_an_engine(engine);
    if (count == 1) {
        a_forked_child_is_refused(engine);
    }
    bs_cancel_fire(cancel);
    bs_cancel_free(cancel);
    bs_engine_free(engine);
    rmdir(directory);
    if (failures == 0) {
        puts("the conventions hold");
    }
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
