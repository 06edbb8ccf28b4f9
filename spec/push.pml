/* SPDX-License-Identifier: Apache-2.0
 *
 * Phase 3 in the small: one GCKS, one sender, one receiver, two transactions, a link that loses whatever it likes.
 * It abstracts from time: a wait may end at any moment, so whatever a clock could do is among the runs.
 *
 * Checked (scripts/model.sh):
 *   - whenever the sender uses a key, every receiver that has confirmed the newest transaction can open it;
 *   - every transaction ends in a verdict that has each member confirmed or named;
 *   - no member is confirmed that does not hold the keys;
 *   - every run comes to such an end: there is no deadlock and no cycle.
 *
 * With -DFORGET_BY_CLOCK the receivers drop a replaced key after a time, whether or not the sender has confirmed its
 * successor. Then the first property fails, and the script expects that: it shows that the check can fail.
 */

#define SENDER 0
#define MEMBERS 2
#define TRANSACTIONS 2
#define ROUNDS 2            /* the first transmission and one repair */

/* Keys are bits: key t is 1 << t; key 0 is there from the beginning. */
byte held[MEMBERS];         /* what each member can open */
byte complete[MEMBERS];     /* the newest transaction it has */
byte inUse;                /* what the sender uses */

byte newest;                /* at the GCKS: the transaction under way */
byte confirmed[MEMBERS];    /* the newest one each member confirmed */
bool named[MEMBERS];        /* in the last verdict */
byte verdicts;

mtype = { PUSH, COMMIT, CONFIGURE };
/* What is on its way to each member, and back. A full channel is one more way to lose a message. */
chan down[MEMBERS] = [2] of { mtype, byte };
chan up = [3] of { byte, byte };

/* Sends to one member, or not. */
inline maybe(member, kind, number) {
    if
    :: atomic { nfull(down[member]) -> down[member] ! kind, number }
    :: skip
    fi
}

inline multicast(kind, number) {
    atomic {
        m = 0;
        do
        :: m < MEMBERS -> maybe(m, kind, number); m++
        :: m == MEMBERS -> break
        od;
        m = 0
    }
}

/* The promise, looked at whenever one of its terms changes: what the sender uses opens at every receiver that has confirmed what is newest. */
inline check() {
    d_step {
        r = 1;
        do
        :: r < MEMBERS ->
            assert(confirmed[r] < newest || (held[r] & (1 << inUse)));
            r++
        :: r == MEMBERS -> break
        od;
        r = 0
    }
}

inline confirm() {
    if
    :: what > confirmed[who] -> confirmed[who] = what; check()
    :: else
    fi
}

active proctype gcks() {
    byte m, r, who, what, round;
    byte retired;

    do
    :: verdicts == TRANSACTIONS -> break
    :: verdicts < TRANSACTIONS ->
        newest = verdicts + 1;
        round = 0;
        /* Multicast rounds: each may be answered by anybody, or by nobody in time. */
        do
        :: round < ROUNDS ->
            multicast(PUSH, newest);
            round++;
            do
            :: atomic { up ? who, what -> confirm() }
            :: break    /* the wait is over */
            od
        :: round == ROUNDS -> break
        od;
        /* Unicast to those that are missing, once; then whatever comes in time. */
        atomic {
            m = 0;
            do
            :: m < MEMBERS ->
                if
                :: confirmed[m] < newest -> maybe(m, CONFIGURE, newest)
                :: else
                fi;
                m++
            :: m == MEMBERS -> m = 0; break
            od
        };
        do
        :: atomic { up ? who, what -> confirm() }
        :: break
        od;
        /* The verdict: confirmed, or named. */
        atomic {
            m = 0;
            do
            :: m < MEMBERS ->
                named[m] = (confirmed[m] < newest);
                assert(named[m] || complete[m] >= newest);
                m++
            :: m == MEMBERS -> break
            od;
            m = 0;
            verdicts++
        }
        /* Once the sender has confirmed, what was replaced may go. */
        if
        :: confirmed[SENDER] > retired -> retired = confirmed[SENDER]; multicast(COMMIT, retired)
        :: else
        fi
    od;

    /* Who was named may still confirm. */
end:
    do
    :: atomic { up ? who, what -> confirm() }
    od
}

proctype member(byte self) {
    mtype kind;
    byte number, r;

end:
    do
    :: atomic {
            down[self] ? kind, number ->
            if
            :: kind != COMMIT ->
                /* A profile brings all that is alive; a push carries what is still unconfirmed. */
                if
                :: number > complete[self] ->
                    held[self] = held[self] | (1 << number) | (1 << (number - 1));
                    complete[self] = number
                :: else
                fi;
                /* The answer, or its loss. */
                if
                :: nfull(up) -> up ! self, complete[self]
                :: skip
                fi
            :: kind == COMMIT && self != SENDER && complete[self] >= number ->
                /* "Gone so long after the activation": the sender, which has confirmed, has moved by then. */
                (inUse >= number);
                held[self] = held[self] & ~((1 << number) - 1);
                check()
            :: else
            fi;
            kind = 0; number = 0
        }
    /* The activation time of the newest keys the sender holds. */
    :: self == SENDER && inUse < complete[SENDER] ->
        atomic { inUse = complete[SENDER]; check() }
#ifdef FORGET_BY_CLOCK
    :: self != SENDER && complete[self] > 0 && (held[self] & ((1 << complete[self]) - 1)) ->
        atomic { held[self] = held[self] & ~((1 << complete[self]) - 1); check() }
#endif
    od
}

init {
    byte m;
    atomic {
        m = 0;
        do
        :: m < MEMBERS -> held[m] = 1; run member(m); m++
        :: m == MEMBERS -> break
        od
    }
}
