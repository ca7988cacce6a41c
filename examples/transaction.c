/* A seat is sold once: the condition is watched, the purchase is one transaction, and a conflict is repeated.
 *   cc -I. examples/transaction.c -o transaction -lmbedtls -lmbedx509 -lmbedcrypto -lpthread && ./transaction HOST BUYER
 * With Ctrl+C nothing is left half done: a transaction runs whole or not at all. */
#define AZREDIS_ENTRA_IMPLEMENTATION
#include "azredis_entra.h"
#include <stdio.h>

static azredis_status buy(azredis_client *c, azredis_reply *r, const char *buyer) {
    const azredis_str free_seats[2] = {azredis_z("GET"), azredis_z("seats:free")};
    const azredis_str take[2] = {azredis_z("DECR"), azredis_z("seats:free")};
    const azredis_str note[3] = {azredis_z("RPUSH"), azredis_z("seats:sold"), azredis_z(buyer)};
    const azredis_cmd commands[2] = {{2, take}, {3, note}};
    const azredis_condition any_left = {azredis_z("seats:free"), {2, free_seats}, AZREDIS_IF_GREATER, azredis_z("0")};
    const azredis_call how = {0, AZREDIS_ATOMIC, &any_left, 1};
    azredis_status st;
    do st = azredis_exec(c, r, &how, commands, 2);
    while (st == AZREDIS_E_CONFLICT);           /* somebody else was faster: look again */
    return st;
}

int main(int argc, char **argv) {
    azredis_options o = {0};
    azredis_reply r = {0};
    azredis_status st;
    int64_t left = 0;
    azredis_client *c;
    if (argc != 3) {
        fprintf(stderr, "usage: transaction HOST BUYER\n");
        return 2;
    }
    o.config = argv[1];
    c = azredis_open(&o);
    st = azredis_set_new(c, &r, "seats:free", azredis_z("2"), NULL);
    if (st == AZREDIS_OK) st = buy(c, &r, argv[2]);
    if (st == AZREDIS_OK && azredis_int(&r.value->as.items[0], &left) == AZREDIS_OK)
        printf("%s has a seat, %lld left\n", argv[2], (long long)left);
    else if (st == AZREDIS_E_CONDITION)
        printf("sold out\n");
    else
        fprintf(stderr, "%s%s\n", r.error->message, r.fate == AZREDIS_MAYBE_RUN ? "; the seat may have been taken" : "");
    azredis_reply_free(&r);
    azredis_close(c);
    return st != AZREDIS_OK && st != AZREDIS_E_CONDITION;
}
