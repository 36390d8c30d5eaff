# The three binaries and their licences, and nothing else: no shell, no package, nothing to update but them. `make image` builds it; they are linked
# statically (`make dist`), and need of their surroundings only what every container runtime gives: /etc/resolv.conf, /etc/hosts and
# /dev/urandom.
FROM scratch
COPY roomring-node roomring-router roomctl LICENSE-MIT LICENSE-APACHE THIRD-PARTY.txt /
# A number, so that runAsNonRoot can be checked without a /etc/passwd.
USER 65532:65532
# What is run is said with the container: /roomring-node, /roomring-router or /roomctl.
CMD ["/roomctl", "--help"]
