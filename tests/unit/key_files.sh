#!/bin/sh
# What people keep a certificate and its key in, each made by the openssl program from tests/data/test_key.pem.
# Usage: key_files.sh DIR     The password is in DIR/password; for test_key.c
set -eu
test_key=$PWD/tests/data/test_key.pem
cd "$1"
printf 'pa ss"w\303\266rd-\342\202\254' >password      # two letters outside ASCII, of two and of three bytes
pass=file:password
crlf() { sed 's/$/\r/'; }

# ---- PEM ----
cp "$test_key" both.pem
openssl x509 -in both.pem -out cert.pem
openssl pkey -in both.pem -out pkcs8.pem
openssl rsa -in both.pem -traditional -out pkcs1.pem 2>/dev/null
cat pkcs1.pem cert.pem >key_first.pem
{ echo "Bag Attributes"; echo "    friendlyName: x"; cat cert.pem pkcs8.pem; } | crlf >crlf.pem
openssl rsa -in both.pem -traditional -aes256 -passout $pass -out proc_type.pem 2>/dev/null
crlf <proc_type.pem >proc_type_crlf.pem

# ---- chains: a CA's, an intermediate's and the key's certificate, and one of a key that nobody has ----
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -subj /CN=test-ca -days 9999 -out ca.pem 2>/dev/null
openssl req -new -key both.pem -subj /CN=test-leaf -out leaf.csr
openssl x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -set_serial 2 -days 9999 -out leaf.pem 2>/dev/null
cat ca.pem leaf.pem >leaf_last.pem
cat ca.pem leaf.pem cert.pem >leaf_between.pem
cat ca.pem ca.key >ec.pem
openssl genrsa -out other.key 2048 2>/dev/null
openssl req -x509 -key other.key -subj /CN=test-other -days 9999 -out other.pem
openssl genrsa -traditional -out short.key 1024 2>/dev/null
