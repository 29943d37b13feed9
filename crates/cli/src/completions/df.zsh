# What the grammar does not know: nodes, versions, and the paths that go to the next df.
_df_names() {
    local -a names
    names=("${(@f)$(command df __complete $1 2>/dev/null)}")
    compadd -a names
}

_df_nodes() { _df_names nodes }

_df_versions() { _df_names versions }

_df_first() {
    _alternative 'commands:command:_df_commands' 'files:file:_files'
}

_df() {
    _df_grammar "$@"
    (( compstate[nmatches] )) || _files
}

