from session_authority_server.cli import main

main()
