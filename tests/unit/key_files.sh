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
openssl pkey -in both.pem -outform DER -out pkcs8.der
openssl rsa -in both.pem -traditional -out pkcs1.pem 2>/dev/null
cat pkcs1.pem cert.pem >key_first.pem
{ echo "Bag Attributes"; echo "    friendlyName: x"; cat cert.pem pkcs8.pem; } | crlf >crlf.pem
{ printf '\357\273\277'; cat both.pem; } >bom.pem
openssl x509 -in cert.pem -outform DER -out cert.der
{ cat cert.der; echo; } >newline.der
sed 's/^MIICpzCCAY/MIICpzCCAZ/' cert.pem >flipped.pem
head -n 6 cert.pem >cut.pem
head -n 6 pkcs8.pem >cut.key
cat cert.pem cut.pem >cut_chain.pem
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

# ---- keys that a password encrypts ----
enc() { name=$1; shift; openssl pkcs8 -topk8 -in both.pem -passout $pass -out "$name.pem" "$@"; }
enc default
openssl pkcs8 -topk8 -in both.pem -passout $pass -outform DER -out default.der
enc aes128_sha1 -v2 aes-128-cbc -v2prf hmacWithSHA1
enc aes192 -v2 aes-192-cbc
enc sha512 -v2 aes-256-cbc -v2prf hmacWithSHA512
enc des3_pbes2 -v2 des3
enc des3_pkcs12 -v1 PBE-SHA1-3DES
enc rc2 -v1 PBE-SHA1-RC2-40 -provider default -provider legacy
enc scrypt -scrypt -scrypt_N 2
enc camellia -v2 camellia-128-cbc
enc most -iter 10000
enc more -iter 10001
crlf <default.pem >default_crlf.pem
cat cert.pem default.pem >encrypted_both.pem

# ---- PKCS#12 ----
pfx() { name=$1; shift; openssl pkcs12 -export -in cert.pem -inkey pkcs8.pem -passout $pass -out "$name.pfx" "$@"; }
pfx default
pfx named -name "somebody's" -caname x -CSP "Microsoft Enhanced RSA"
pfx aes128 -keypbe AES-128-CBC -certpbe AES-128-CBC -iter 3333
pfx sha1 -macalg sha1
pfx sha384 -macalg sha384
pfx sha512 -macalg sha512
pfx md5 -macalg md5
pfx more -iter 3334
pfx one -iter 1
pfx twice -iter 2
pfx no_mac -nomac
pfx plain -keypbe NONE -certpbe NONE
pfx plain_cert -certpbe NONE -iter 1
pfx open -keypbe NONE -certpbe NONE -nomac
pfx des3 -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1
pfx des3_pbes2 -keypbe DES-EDE3-CBC -certpbe DES-EDE3-CBC
pfx legacy -legacy
pfx empty -passout pass:
pfx empty_des3 -passout pass: -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1
pfx astral -passout "pass:$(printf '\360\237\224\221key')" -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES
pfx no_key -nokeys
openssl pkcs12 -export -nocerts -inkey pkcs8.pem -passout $pass -out no_cert.pfx
openssl pkcs12 -export -in ca.pem -inkey ca.key -passout $pass -out ec.pfx
openssl pkcs12 -export -in leaf.pem -inkey pkcs8.pem -certfile ca.pem -passout $pass -out chain.pfx
