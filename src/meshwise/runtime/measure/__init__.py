"""What ranks did: collectives counted, scopes timed, the record of a run."""
