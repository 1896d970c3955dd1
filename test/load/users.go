package main

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
)

// tokenBytes is the length of an access token, as long as Lark's.
const tokenBytes = 1500

const (
	userPrefix = "ou_load"
	userDigits = 6
)

// userName is the open_id of user i, below a million. All are equally long, so
// that a request is made by writing six digits.
func userName(i int) string {
	b := []byte(userPrefix + "000000")
	putDigits(b, i)
	return string(b)
}

// putDigits writes i at the end of b.
func putDigits(b []byte, i int) {
	for at := len(b) - 1; at >= len(b)-userDigits; at-- {
		b[at] = byte('0' + i%10)
		i /= 10
	}
}

// userNumber is the inverse of userName.
func userNumber(name string) (int, bool) {
	digits, ok := strings.CutPrefix(name, userPrefix)
	if !ok || len(digits) != userDigits {
		return 0, false
	}
	i, err := strconv.Atoi(digits)
	return i, err == nil && i >= 0
}

// filler looks as random as a token does: HTTP/2 compresses headers by the
// letter.
var filler = sync.OnceValue(func() []byte {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, tokenBytes)
	for i := range b {
		b[i] = letters[rng.IntN(len(letters))]
	}
	return b
})

// accessToken is the generation-th token of user; refreshes count generations.
func accessToken(user, generation int) string {
	head := "u-" + userName(user) + "." + strconv.Itoa(generation) + "."
	return head + string(filler()[:tokenBytes-len(head)])
}

// ownerOf is whose token stands in an Authorization header: the inverse of
// accessToken, to the last letter, without a table of all tokens.
func ownerOf(authorization string) (name string, ok bool) {
	token, ok := strings.CutPrefix(authorization, "Bearer u-")
	if !ok || len(authorization) != len("Bearer ")+tokenBytes {
		return "", false
	}
	name, rest, _ := strings.Cut(token, ".")
	generation, rest, found := strings.Cut(rest, ".")
	if _, isUser := userNumber(name); !found || !isUser || strings.Trim(generation, "0123456789") != "" {
		return "", false
	}
	return name, string(filler()[:len(rest)]) == rest
}

// answerBytes is the length of a JSON answer.
const answerBytes = 1024

const answerHead = `{"code":0,"msg":"success","data":{"owner":"`

// answer is the upstream's JSON for user 0; the name is at nameAt.
var answer = sync.OnceValue(func() []byte {
	head, tail := answerHead+userName(0)+`","text":"`, `"}}`
	return []byte(head + strings.Repeat("x", answerBytes-len(head)-len(tail)) + tail)
})

const nameAt = len(answerHead)

// namesUser is whether a JSON answer says that user's token came.
func namesUser(body []byte, user int) bool {
	var want [len(userPrefix) + userDigits]byte
	copy(want[:], userPrefix)
	putDigits(want[:], user)
	return len(body) == answerBytes && bytes.HasPrefix(body, []byte(answerHead)) &&
		bytes.Equal(body[nameAt:nameAt+len(want)], want[:])
}
