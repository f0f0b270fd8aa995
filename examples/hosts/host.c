/* A host of soma in C, with the C library alone:  cc -Wall -Wextra -o host host.c
 *
 *   ./host                  starts a worker:            python3 -m soma_transport_stdio
 *   ./host /path/to/socket  uses a worker of a daemon:  soma serve socket --path ...
 *
 * PYTHON names the interpreter that has soma-core and soma-filters-sklearn installed.
 * A program that reads more than a few fields takes a JSON library; find() is enough here.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* A worker as a child process, with one socket as its stdin and stdout. */
static int start_worker(void) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        fail("socketpair");
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        const char *python = getenv("PYTHON");
        python = python ? python : "python3";
        dup2(ends[1], 0);
        dup2(ends[1], 1);
        execlp(python, python, "-P", "-m", "soma_transport_stdio", (char *)NULL);
        perror(python);
        _exit(127);
    }
    close(ends[1]);
    return ends[0];
}

/* A worker of the daemon that listens at a path. */
static int reach_worker(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "%s: longer than %zu bytes\n", path, sizeof address.sun_path - 1);
        exit(1);
    }
    strcpy(address.sun_path, path);
    int wire = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (wire < 0 || connect(wire, (struct sockaddr *)&address, sizeof address) < 0)
        fail(path);
    return wire;
}

static const char *after_string(const char *at) {
    for (at++; *at && *at != '"'; at++)
        if (*at == '\\' && at[1])
            at++;
    return *at ? at + 1 : at;
}

/* The end of the JSON value that starts here. */
static const char *after_value(const char *at) {
    int depth = 0;
    do {
        if (*at == '"')
            at = after_string(at);
        else {
            depth += *at == '{' || *at == '[';
            depth -= *at == '}' || *at == ']';
            at++;
        }
    } while (*at && (depth > 0 || !strchr(",}]", *at)));
    return at;
}

/* The value of a key of the JSON object that starts here, or NULL. Replies have no spaces. */
static const char *find(const char *object, const char *key) {
    if (!object || *object != '{')
        return NULL;
    for (const char *at = object + 1; *at == '"' || *at == ',';) {
        at += *at == ',';
        const char *value = after_string(at) + 1; /* after the colon */
        if (!strncmp(at + 1, key, strlen(key)) && at[1 + strlen(key)] == '"')
            return value;
        at = after_value(value);
    }
    return NULL;
}

static void print_value(const char *value) {
    if (value)
        fwrite(value, 1, after_value(value) - value, stdout);
}

/* One line out, one line in; the reply is valid until the next call. */
static const char *ask(FILE *wire, const char *command) {
    static char *reply;
    static size_t room;
    fprintf(wire, "%s\n", command);
    fflush(wire);
    if (getline(&reply, &room, wire) < 0) {
        fprintf(stderr, "the worker is gone, and this was not answered: %s\n", command);
        exit(1);
    }
    return reply;
}

static int is_ok(const char *reply) {
    const char *ok = find(reply, "ok");
    return ok && !strncmp(ok, "true", 4);
}

static const char *must(FILE *wire, const char *command) {
    const char *reply = ask(wire, command);
    if (!is_ok(reply)) {
        fprintf(stderr, "refused: %s", reply);
        exit(1);
    }
    return reply;
}

#define ROWS "{\"type\":\"Tensor\",\"data\":{\"values\":[1,2,3,4],\"shape\":[2,2]}}"

int main(int count, char **arguments) {
    signal(SIGPIPE, SIG_IGN); /* a worker that is gone is noticed when its reply does not come */
    int fd = count > 1 ? reach_worker(arguments[1]) : start_worker();
    FILE *wire = fdopen(fd, "r+");
    if (!wire)
        fail("fdopen");

    must(wire, "{\"cmd\":\"LOAD\",\"filters\":[{\"id\":\"scaler\","
               "\"filter\":\"sklearn.StandardScaler\",\"config\":{}}]}");
    must(wire, "{\"cmd\":\"FIT\",\"node_id\":\"scaler\",\"return_state\":false,\"data\":" ROWS "}");
    const char *reply =
        must(wire, "{\"cmd\":\"FORWARD\",\"node_id\":\"scaler\",\"data\":" ROWS "}");
    const char *tensor = find(find(reply, "result"), "data");
    printf("result ");
    print_value(find(tensor, "values"));
    printf(" of shape ");
    print_value(find(tensor, "shape"));
    printf("\n");

    reply = ask(wire, "{\"cmd\":\"FORWARD\",\"node_id\":\"nobody\",\"data\":1}");
    if (!is_ok(reply)) {
        printf("refused with ");
        print_value(find(reply, "code"));
        printf(": ");
        print_value(find(reply, "error"));
        printf("\n");
    }
    must(wire, "{\"cmd\":\"SHUTDOWN\"}");
    return 0;
}
